"""The rules of the house. Each is a function from a tree to a list of complaints, and each is tried on a bad tree."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hicmae
from hicmae import configs

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    {"configs"},
    {"runtime"},
    {"models", "datasets"},
    {"pretrain", "finetune"},
    {"inference", "zoo", "benchmark", "demo"},
    {"cli"},
    {"__main__"},
]
FREE_TO_MEET = LAYERS[4]  # neighbours of one layer that may import each other: a demo shows a prediction
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
CARD_FOLDERS = ("models", "pretrain", "finetune", "datasets", "configs")
CODE = ("hicmae", "tests", "benchmarks")
VAGUE = {"utils", "util", "misc", "helpers", "helper", "common"}
MODALITIES = {"av", "torchvision", "torchaudio", "webdataset"}
TRAINING_PATH = ("models", "pretrain", "finetune", "runtime")
# counting and drawing, and what is measured beside or after training: no step passes through it
NO_TRAINING = {
    *("profile.py", "report.py", "page.py", "charts.py", "metrics.py", "comparison.py"),
    *("folds.py", "summary.py", "published.py", "comparing.py", "regroup.py"),
    *("planning.py", "fitting.py", "evaluation.py", "values.py", "curves.py", "multilabel.py"),
    *("disturbances.py", "robustness.py", "robustness_page.py", "areas.py"),
    *(
        "calibration.py",
        "embedding.py",
        "cost.py",
        "measured.py",
        "building.py",
        "pooling.py",
        "predictions.py",
        "diagrams.py",
    ),
    *("picture.py", "rebuilt.py", "watch.py", "probing.py", "online.py"),
    *("recap.py", "hub.py", "mirrors.py", "archives.py"),
    "convert.py",  # reads others' checkpoints, before the first step
}
TRAINING_DATA = ("frames", "samples", "store", "pipeline", "sampling", "transforms", "draws", "policy", "fbank")
MACHINE_PATH = re.compile(r"(?<![\w.}$<~-])/(?:home|work|Users|root|mnt|scratch)/[\w.-]+|\b[A-Z]:\\Users\\")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".json", ".txt", ".cfg", ".html", ".slurm", ""}


def sources(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path, members: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module == "hicmae":
                yield from ((node.lineno, f"hicmae.{a.name}" if a.name in members else "") for a in node.names)
            else:
                yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def wrong_layers(root: Path) -> list[str]:
    """Imports that go up, or sideways between siblings."""
    bad = []
    for path in sources(root, "hicmae"):
        parts = path.relative_to(root / "hicmae").with_suffix("").parts
        if parts == ("__init__",):  # resolves names lazily, and belongs to no layer
            continue
        own = parts[0]
        if own not in LAYER_OF:
            bad.append(f"hicmae/{own} stands in no layer")
            continue
        for line, module in imported(path, set(LAYER_OF)):
            where = f"{path.relative_to(root)}:{line} imports {module}"
            if LAYER_OF[own] == 0 and module.split(".")[0] == "torch":
                bad.append(where)
            if LAYER_OF[own] <= 1 and module.split(".")[0] in MODALITIES:
                bad.append(where)
            if module == "hicmae":  # by its attributes anything could be reached
                bad.append(where)
            if not module.startswith("hicmae."):
                continue
            other = module.split(".")[1]
            together = {own, other} <= FREE_TO_MEET
            if other != own and not together and LAYER_OF.get(other, 99) >= LAYER_OF[own]:
                bad.append(where)
    return bad


def relative_imports(root: Path) -> list[str]:
    """`from . import x`."""
    return [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in sources(root, *CODE)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def code_among_cards(root: Path) -> list[str]:
    """Python files in the folders of recipes and cards."""
    return [str(path.relative_to(root)) for path in sources(root, *CARD_FOLDERS)]


def long_files(root: Path, limit: int = 400) -> list[str]:
    """Files above `limit` lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root, *CODE)}
    return [f"{path.relative_to(root)}: {count} lines" for path, count in counts.items() if count > limit]


def vague_names(root: Path) -> list[str]:
    """Modules and packages whose name says nothing."""
    return [
        str(path.relative_to(root))
        for path in sources(root, *CODE)
        if VAGUE & {part.strip("_") for part in path.relative_to(root).with_suffix("").parts}
    ]


def missing_all(root: Path) -> list[str]:
    """Packages of the library whose `__init__.py` is missing, or has no `__all__`."""
    bad = []
    for folder in sorted({path.parent for path in sources(root, "hicmae")}):
        init = folder / "__init__.py"
        if not init.is_file() or public_names(tree_of(init)) is None:
            bad.append(str(init.relative_to(root)))
    return bad


def public_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


def undocumented(root: Path) -> list[str]:
    """Public modules, functions and classes without a docstring, and names in `__all__` that are not there.

    Plain values (constants, type aliases) are let pass: Python gives them no docstring.
    """
    bad = []
    for path in sources(root, "hicmae"):
        tree, where = tree_of(path), str(path.relative_to(root))
        if not ast.get_docstring(tree):
            bad.append(where)
        made: dict[str, ast.AST] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                made.setdefault(node.name, node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {alias.asname or alias.name: node for alias in node.names}
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                made |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        for name in public_names(tree) or []:
            lazy = (path.parent / name).is_dir() or (path.parent / f"{name}.py").is_file()
            if name not in made:
                bad += [] if lazy else [f"{where}: {name} is not there"]
            elif isinstance(made[name], ast.ClassDef | ast.FunctionDef) and not ast.get_docstring(made[name]):  # type: ignore[arg-type]
                bad.append(f"{where}: {name}")
    return bad


def module_or_function(root: Path) -> list[str]:
    """Names that a package exports and that are also a module beside it: an import could turn one into the other."""
    bad = []
    for init in (path for path in sources(root, "hicmae") if path.name == "__init__.py"):
        for node in ast.walk(tree_of(init)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            package = ".".join(init.parent.relative_to(root).parts)
            for name in (alias.asname or alias.name for alias in node.names):
                if node.module != package and (init.parent / f"{name}.py").is_file():
                    bad.append(f"{package}.{name}")
    return bad


def machine_paths(root: Path) -> list[str]:
    """Text that names a folder of somebody's machine."""
    bad = []
    folders = [root / name for name in (*CODE, *CARD_FOLDERS, "docs")]
    files = [*root.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    for path in sorted(file for file in files if file.is_file() and file.suffix in TEXT):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            bad += [f"{path.relative_to(root)}:{number} {found}" for found in MACHINE_PATH.findall(line)]
    return bad


# rule -> a bad tree, and how each complaint about it begins
RULES: dict[Any, tuple[dict[str, str], list[str]]] = {
    wrong_layers: (
        {
            "hicmae/models/a.py": "def f():\n    from hicmae.datasets import media\n",
            "hicmae/configs/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
            "hicmae/pretrain/c.py": "from hicmae import finetune\n",
            "hicmae/demo.py": "import hicmae.cli\nimport hicmae.inference\n",
            "hicmae/runtime/d.py": "import av\n",
            "hicmae/datasets/e.py": "import importlib\nimportlib.import_module('hicmae.inference')\n",
            "hicmae/finetune/f.py": "import hicmae\n",
            "hicmae/other.py": "",
        },
        [
            "hicmae/configs/b.py:3 imports torch",
            "hicmae/datasets/e.py:2 imports hicmae.inference",
            "hicmae/demo.py:1 imports hicmae.cli",
            "hicmae/finetune/f.py:1 imports hicmae",
            "hicmae/models/a.py:2 imports hicmae.datasets",
            "hicmae/other stands in no layer",
            "hicmae/pretrain/c.py:1 imports hicmae.finetune",
            "hicmae/runtime/d.py:1 imports av",
        ],
    ),
    relative_imports: (
        {"hicmae/a.py": "from . import b\n", "tests/b.py": "def f():\n    from .c import d\n"},
        ["hicmae/a.py:1", "tests/b.py:2"],
    ),
    code_among_cards: ({"models/a.py": "", "pretrain/deep/b.py": ""}, ["models/a.py", "pretrain/deep/b.py"]),
    long_files: ({"hicmae/a.py": "x = 1\n" * 401, "hicmae/b.py": "x = 1\n" * 400}, ["hicmae/a.py: 401 lines"]),
    vague_names: (
        {"hicmae/utils.py": "", "tests/common/a.py": "", "hicmae/models/_helpers.py": ""},
        ["hicmae/models/_helpers.py", "hicmae/utils.py", "tests/common/a.py"],
    ),
    missing_all: (
        {"hicmae/__init__.py": "'''Doc.'''\n", "hicmae/models/a.py": ""},
        ["hicmae/__init__.py", "hicmae/models/__init__.py"],
    ),
    undocumented: (
        {
            "hicmae/a.py": "'''Doc.'''\n__all__ = ['f']\ndef f(): ...\n",
            "hicmae/b.py": "'''Doc.'''\n__all__ = ['lost']\n",
            "hicmae/c.py": "",
        },
        ["hicmae/a.py: f", "hicmae/b.py: lost is not there", "hicmae/c.py"],
    ),
    module_or_function: (
        {"hicmae/models/__init__.py": "from hicmae.models.a import a\n", "hicmae/models/a.py": ""},
        ["hicmae.models.a"],
    ),
    machine_paths: (
        {"README.md": "see /" + "home/ann/video.mp4\n", "pretrain/a.yaml": "seed: 1\nout: /" + "work/runs\n"},
        ["README.md:1", "pretrain/a.yaml:2"],
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Any) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_tree_that_breaks_the_rule_is_caught(rule: Any, tmp_path: Path) -> None:
    files, expected = RULES[rule]
    good = "'''Doc.'''\n\n__all__: list[str] = []\n"
    for name, text in {"hicmae/configs/__init__.py": good, "tests/test_good.py": good, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    complaints = sorted(rule(tmp_path))
    assert len(complaints) == len(expected), complaints
    for complaint, start in zip(complaints, expected, strict=True):
        assert complaint.startswith(start)


def test_importing_hicmae_and_its_command_line_loads_no_torch() -> None:
    code = "import sys, hicmae, hicmae.configs, hicmae.cli; print({'torch', 'av', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_every_module_can_be_imported_and_has_what_it_announces() -> None:
    for found in pkgutil.walk_packages(hicmae.__path__, "hicmae."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name) or importlib.import_module(f"{found.name}.{name}"), f"{found.name}.{name}"


def code_lines(path: Path) -> int:
    """Lines that hold code: blanks, comments and docstrings are not counted."""
    words = {
        line
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with tokenize.open(path) as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline) if token.type not in quiet]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - words)


def test_code_lines_are_counted_without_words_about_them(tmp_path: Path) -> None:
    text = '"""Doc,\n\nlong."""\n\nx = """a\nb"""  # why\n# note\ndef f(\n    y,\n):\n    """Doc."""\n    return y\n'
    (tmp_path / "a.py").write_text(text, encoding="utf-8")
    assert code_lines(tmp_path / "a.py") == 6


def test_the_training_path_stays_readable() -> None:
    files = sources(ROOT, *(f"hicmae/{name}" for name in TRAINING_PATH))
    files += [ROOT / "hicmae" / "datasets" / f"{name}.py" for name in TRAINING_DATA]
    files = [path for path in files if path.is_file() and path.name not in NO_TRAINING]
    lines = {str(path.relative_to(ROOT)): code_lines(path) for path in files}
    assert sum(lines.values()) <= 6000, lines


def parse_recipe(recipe: str | Path, stage: str) -> Any:
    module = importlib.import_module(f"hicmae.{stage}")
    config = {"pretrain": "PretrainConfig", "finetune": "FinetuneConfig"}[stage]
    return configs.load(getattr(module, config), configs.resolve(recipe, stage))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_shipped_recipe_parses(stage: str) -> None:
    for name in configs.names(stage):
        assert parse_recipe(name, stage).model, name


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_recipe_with_a_wrong_key_does_not_parse(stage: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: mae_dfer_base\noptim: {learning: 1}\n", encoding="utf-8")
    with pytest.raises(configs.ConfigError, match=r"optim\.learning"):
        parse_recipe(tmp_path / "bad.yaml", stage)


@pytest.mark.parametrize("kind", CARD_FOLDERS)
def test_every_card_recipe_and_piece_is_a_yaml_mapping(kind: str) -> None:
    for name in configs.names(kind):
        assert configs.read_yaml(configs.find(name, kind)), name


def test_a_card_that_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(configs.ConfigError, match=r"card\.yaml"):
        configs.read_yaml(tmp_path / "card.yaml")
