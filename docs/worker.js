// A page opened from the disk may not start a worker: the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = `<script>
        self.hear = self.postMessage.bind(self)
        self.postMessage = data => parent.postMessage(data, "*")
        self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {
          const script = document.createElement("script")
          Object.assign(script, { src: url, onload: done, onerror: failed })
          document.head.append(script)
        })), Promise.resolve())
      </` + `script><script src="${new URL(url, location)}"></` + `script>`
      this.ready = new Promise(done => this.frame.addEventListener("load", done))
      addEventListener("message", event => {
        if (event.source !== this.frame.contentWindow) return
        const told = new MessageEvent("message", { data: event.data })
        if (this.onmessage) this.onmessage(told)
        this.dispatchEvent(told)
      })
      const add = () => document.body.append(this.frame)
      document.body ? add() : addEventListener("DOMContentLoaded", add)
    }
    postMessage(data) { this.ready.then(() => this.frame.contentWindow.hear(data, "*")) }
    terminate() { this.frame.remove() }
  }
}
