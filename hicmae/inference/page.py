"""One page of a prediction: the annotated video with the timeline of every person, in time with each other."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from hicmae.inference.people import Person, shortly
from hicmae.inference.prediction import Prediction, columns, rows
from hicmae.inference.timeline import clock, ink, lane, shown_people, stretch
from hicmae.runtime.page import Page

__all__ = ["EMBEDDED", "LANE_SCRIPT", "LANE_STYLE", "PlayerPage", "lanes", "prediction_page"]

EMBEDDED = 24_000_000
"""Bytes up to which a video is put into its page; a larger one lies beside it."""

LANE_STYLE = """
.lane{position:relative;cursor:pointer;touch-action:pan-y;user-select:none;-webkit-user-select:none;border-radius:4px}
.lane:focus-visible{outline:2px solid var(--accent);outline-offset:3px}
.lane .drawn{position:relative}
.lane svg{display:block;width:100%;height:132px}
.lane svg *{vector-effect:non-scaling-stroke}
.lane path{fill:none;stroke-width:2;stroke-linejoin:round}
.lane .ground{fill:var(--line);fill-opacity:.6}
.lane .cursor{stroke:var(--ink);stroke-width:2}
.lane .level{position:absolute;left:2px;font-size:.68rem;line-height:1;color:var(--soft);transform:translateY(-115%);
pointer-events:none}
.lane .times{position:relative;height:1.3rem;font-size:.75rem;color:var(--soft);font-variant-numeric:tabular-nums;
overflow:hidden;border-top:1px solid var(--soft)}
.lane .times span{position:absolute;top:.1rem;transform:translateX(-50%)}
.lane .times span:first-child{transform:none}
.person{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem;margin:.9rem 0;
break-inside:avoid}
.person header{display:flex;gap:.8rem;align-items:center;margin-bottom:.7rem}
.person header img{width:56px;height:56px;border-radius:8px;object-fit:cover;flex:none}
.person header b{display:block}
.person header span{color:var(--soft);font-size:.87rem}
.now{display:flex;flex-wrap:wrap;gap:.15rem .9rem;min-height:1.6rem;margin-top:.5rem;font-size:.85rem;
font-variant-numeric:tabular-nums}
.chip{white-space:nowrap;color:var(--soft)}
.chip i{display:inline-block;width:.7rem;height:.7rem;border-radius:3px;margin-right:.35rem}
.chip.best{color:var(--ink);font-weight:650}
.player{background:#000;border-radius:10px;overflow:hidden;margin:1rem 0}
.player video{display:block;width:100%;max-height:62vh}
@media(max-width:640px){.lane .times span:nth-child(even){display:none}}
""".strip()

LANE_SCRIPT = """
(() => {
  for (const box of document.querySelectorAll('.lanes')) {
    const data = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
    const player = document.querySelector(box.dataset.player), lanes = [...box.querySelectorAll('.lane')];
    const [start, end] = data.span;
    const number = data.classes, told = (value, i) => i < number ? Math.round(100 * value) + ' %'
      : (value < 0 ? '−' : '+') + Math.abs(value).toFixed(2);
    const go = time => { if (player) player.currentTime = Math.min(Math.max(time, start, 0), end); };
    const show = () => {
      const time = player ? player.currentTime : start;
      lanes.forEach((lane, n) => {
        const x = (time - start) / (end - start) * 960, cursor = lane.querySelector('.cursor');
        cursor.setAttribute('x1', x); cursor.setAttribute('x2', x);
        lane.setAttribute('aria-valuenow', time.toFixed(2));
        const part = data.people[n].find(each => each[0] <= time && time < each[1]);
        const values = part ? part[2] : null, best = values ? Math.max(...values.slice(0, number)) : 0;
        lane.parentNode.querySelectorAll('.chip').forEach((chip, i) => {
          chip.querySelector('b').textContent = values ? told(values[i], i) : '–';
          chip.classList.toggle('best', !!values && i < number && values[i] === best);
        });
      });
    };
    lanes.forEach(lane => {
      const at = event => {
        const edge = lane.querySelector('svg').getBoundingClientRect();
        go(start + (event.clientX - edge.left) / edge.width * (end - start));
      };
      lane.addEventListener('pointerdown', event => { lane.setPointerCapture(event.pointerId); at(event); });
      lane.addEventListener('pointermove', event => { if (event.buttons) at(event); });
      lane.addEventListener('keydown', event => {
        const step = {ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10}[event.key];
        if (step && player) { go(player.currentTime + step); event.preventDefault(); }
        if (event.key === ' ' && player) { player.paused ? player.play() : player.pause(); event.preventDefault(); }
      });
    });
    if (player) {
      for (const name of ['timeupdate', 'seeking', 'seeked', 'loadedmetadata']) player.addEventListener(name, show);
      const follow = () => { show(); if (!player.paused) requestAnimationFrame(follow); };
      player.addEventListener('play', follow);
    }
    show();
  }
})();
""".strip()


class PlayerPage(Page):
    """A page that holds a video and timelines in time with it: the one page with a script, which it carries itself."""

    def player(self, video: Path, *, embedded: int = EMBEDDED) -> PlayerPage:
        """The video: inside the page up to so many bytes, otherwise by its name beside the page."""
        if video.stat().st_size <= embedded:
            source = f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"
        else:
            source = html.escape(quote(video.name))
        self._add(f'<div class="player"><video controls playsinline preload="auto" src="{source}"></video></div>')
        return self

    def timelines(self, result: Prediction) -> PlayerPage:
        """The timelines of all people, which follow the video and lead it where they are clicked."""
        self._add(f"<style>{LANE_STYLE}</style>{lanes(result)}<script>{LANE_SCRIPT}</script>")
        return self


def lanes(result: Prediction, player: str = "video") -> str:
    """HTML of everybody's timelines; `LANE_STYLE` and `LANE_SCRIPT` make them follow the element `player` names."""
    people, span = shown_people(result), stretch(result)
    first = people[0].windows[0]
    names = [*first.probabilities, *first.values]
    data = {
        "span": [round(moment, 3) for moment in span],
        "classes": len(first.probabilities),
        "people": [_told(person) for person in people],
    }
    held = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = "".join(_section(person, span, names) for person in people)
    return (
        f'<div class="lanes" data-player="{html.escape(player)}">{parts}'
        f'<script type="application/json">{held}</script></div>'
    )


def prediction_page(result: Prediction, video: Path | None = None, *, embedded: int = EMBEDDED) -> Page:
    """The page of a prediction.

    Args:
        video: its annotated video; None leaves the player out.
        embedded: bytes up to which the video is put into the page; a larger one must lie beside the page.
    """
    page = PlayerPage(Path(result.clip).name, f"{result.model}, {clock(result.seconds, parts=True)}")
    if result.note:
        page.note(result.note)
    if video is not None:
        page.player(video, embedded=embedded)
    page.timelines(result)
    left = len(result.people) - len(shown_people(result))
    if left > 0:
        page.text(f"{left} more people, who are seen more briefly, are in the table only.")
    page.text(
        "Each window's probabilities hold for all of it; at any time the mean of the windows that contain it is shown. "
        "Where a face is not seen the timeline is empty. What is told is the emotion a face expresses in the eyes of a "
        "model, not what a person feels."
    )
    page.heading("Windows")
    named = columns(result)[1:]
    table = [row[1:] for row in rows(result)]
    shown = [[_short(cell, name) for cell, name in zip(row, named, strict=True)] for row in _thinned(table)]
    words = (
        f"every {-(-len(table) // len(shown))}. of {len(table):,}; all are in the csv file" if len(table) > 400 else ""
    )
    page.table(named, shown, words)
    return page


def _section(person: Person, span: tuple[float, float], names: Sequence[str]) -> str:
    picture = ""
    if person.look:
        data = base64.b64encode(person.look).decode()
        picture = f'<img alt="{html.escape(person.name)}" src="data:image/jpeg;base64,{data}">'
    words = f"on the whole {shortly(person.probabilities, person.values, 3)}"
    words += f", in view for {clock(person.seconds, parts=True)}"
    chips = "".join(
        f'<span class="chip"><i style="background:{ink(n)}"></i>{html.escape(name)} <b></b></span>'
        for n, name in enumerate(names)
    )
    return (
        f'<section class="person"><header>{picture}<div><b>{html.escape(person.name)}</b>'
        f"<span>{html.escape(words)}</span></div></header>"
        f'{lane(person, span)}<div class="now">{chips}</div></section>'
    )


def _told(person: Person) -> list[list[object]]:
    return [
        [
            round(part.start, 3),
            round(part.end, 3),
            [round(x, 3) for x in (*part.probabilities.values(), *part.values.values())],
        ]
        for part in person.parts
    ]


def _thinned(table: list[list[object]]) -> list[list[object]]:
    return table[:: -(-len(table) // 400) or 1]


def _short(cell: object, name: str) -> object:
    if isinstance(cell, float):
        return clock(cell, parts=True) if name in ("start", "end") else f"{cell:.3f}"
    return cell
