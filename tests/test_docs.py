"""The documentation says what the program does: names, options, keys, links, docstrings."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from gitmerge_eval import methods
from gitmerge_eval.cli.application import application
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.records import MergeMethod

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gitmerge_eval"
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
BEGIN = "<!-- generated from the declarations: begin -->"
END = "<!-- generated from the declarations: end -->"
# Git starts these; they never reach typer.
PROGRAMS = {"filter", "driver", "hook", "differ"}
PLACES = re.compile(r"(?<![\w.~$}-])/(?:root|home|work|Users|private|opt|mnt)/|[A-Z]:\\")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# --- the generated block of methods.md -----------------------------------------------------------


def methods_block() -> str:
    """What the declarations say, as the Markdown between the two markers."""
    known = list(methods.load().values())
    lines = [
        "| method | needs | merging a d×k layer, FLOPs | its statistics, FLOPs | reference |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| [`{m.name}`](#{m.name}) | {_needs(m)} | {m.flops_formula} | "
        f"{m.statistics_formula or 'none'} | {m.reference} |"
        for m in known
    ]
    lines += [
        "",
        "| method | option | symbol | range | default | the paper's sweep | what it is |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{m.name}` | `{p.option}` | {p.symbol} | {_range(p)} | {_shown(p.default)} | "
        f"{_sweep(p)} | {p.help} |"
        for m in known
        for p in m.hyperparameters
    ]
    return "\n".join(lines)


def _needs(method: MergeMethod) -> str:
    defaults = method.options({})
    base = ["the base"] if method.needs_base(defaults) else []
    return ", ".join([*base, *(f"`{kind}`" for kind in method.statistics(defaults))]) or "nothing"


def _range(parameter: Hyperparameter) -> str:
    kind = {int: "whole number in ", tuple: "numbers in "}.get(parameter.type, "")
    return kind + parameter.range.replace("|", " or ")


def _shown(value: object) -> str:
    return "none" if value is None else f"`{value}`"


def _sweep(parameter: Hyperparameter) -> str:
    values = [f"{value:g}" for value in parameter.sweep]
    return ", ".join(values) if len(values) < 4 else f"{values[0]}, {values[1]}, …, {values[-1]}"


def test_the_methods_table_is_what_the_declarations_say():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1, "docs/methods.md lacks its two markers"
    written = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert written == methods_block(), (
        f"docs/methods.md is not current; put this between its markers:\n\n{methods_block()}\n"
    )


def test_every_method_has_a_section():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([a-z-]+)$", text, re.MULTILINE) == list(methods.load())


# --- links and places ----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_relative_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links '{target}', which is not there"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links '{target}': no such heading"


@each_page
def test_no_page_names_a_place_on_somebodys_machine(page):
    found = PLACES.search(page.read_text(encoding="utf-8"))
    assert found is None, f"{page.name} names '{found and found[0]}'"


def test_the_index_of_decisions_is_complete():
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", index, re.MULTILINE)
    assert sorted(linked) == sorted(p.name for p in DECISIONS.glob("*.md") if p.name != "README.md")


# --- commands and options ------------------------------------------------------------------------


def _command_tree(command, name=()):
    yield name, command
    for key, child in getattr(command, "commands", {}).items():
        yield from _command_tree(child, (*name, key))


COMMANDS = dict(_command_tree(typer.main.get_command(application)))


def options_of(name: tuple[str, ...]) -> set[str]:
    """Every option that a command takes, on the command line."""
    command = COMMANDS[name]
    own = {option for parameter in command.params for option in parameter.opts}
    if command.context_settings.get("ignore_unknown_options"):
        own |= {f"--{p.option}" for m in methods.load().values() for p in m.hyperparameters}
    return {o for o in own if o.startswith("-")} | {"--help"}


def invocations(text: str) -> list[list[str]]:
    """The words of every 'gitmerge-eval …' in code, up to what ends a command."""
    code = re.findall(r"^(?: {4}|\t).*$", text, re.MULTILINE)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        code += block.splitlines()
    code += re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in code:
        words = line.split(" #")[0].replace("(", " ").replace(")", " ").split()
        for before, word in pairwise(["", *words]):
            if word == "gitmerge-eval" and before in ("", "$", "&&", "|", ";", "do"):
                start = words.index(word)
                rest = words[start + 1 :]
                end = next((i for i, w in enumerate(rest) if w in ("&&", "|", ";", "||")), None)
                found.append(rest[:end])
                break
    return found


def test_the_walk_finds_commands():
    text = "    $ gitmerge-eval plan -X a=b main && ls\n`gitmerge-eval cost mats --models 5`"
    assert invocations(text) == [
        ["plan", "-X", "a=b", "main"],
        ["cost", "mats", "--models", "5"],
    ]
    assert "--strategy-option" in options_of(("plan",))
    assert "--iterations" in options_of(("cost",))


@each_page
def test_commands_and_options_exist(page):
    for words in invocations(page.read_text(encoding="utf-8")):
        if not words or words[0] in PROGRAMS or not re.match(r"[a-z-]", words[0]):
            continue
        if not re.fullmatch(r"[a-z]+|--\w+", words[0]):
            continue  # a version, as in the trailer 'gitmerge-eval 0.2.0'
        name: tuple[str, ...] = ()
        for word in words:
            if (*name, word) not in COMMANDS:
                break
            name = (*name, word)
        shown = "gitmerge-eval " + " ".join(words)
        assert name or words[0].startswith("-"), f"{page.name}: '{shown}': no such command"
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert used <= options_of(name), f"{page.name}: '{shown}': {used - options_of(name)}"


def test_the_reference_has_every_command_and_option():
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### `gitmerge-eval ([a-z -]+)`$(.*?)(?=^##)", text + "\n##", re.M | re.S)
    )
    # A group that does something by itself is a command, too.
    leaves = {
        name
        for name, command in COMMANDS.items()
        if name and (not getattr(command, "commands", None) or command.invoke_without_command)
    }
    assert set(sections) == {" ".join(name) for name in leaves}
    for name in leaves:
        section = sections[" ".join(name)]
        for parameter in COMMANDS[name].params:
            for option in parameter.opts:
                if option.startswith("-") and option != "--help":
                    assert f"`{option}" in section, f"reference.md, {name}: {option} is not there"


def test_the_reference_has_every_general_strategy_option():
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    for option in {*merge_options.GENERAL, *merge_options.GIT_OPTIONS}:
        assert f"`{option}" in text, f"reference.md does not name the strategy option '{option}'"


# --- configuration keys --------------------------------------------------------------------------

KEY = re.compile(r"(?<![\w-])merge-eval\.[a-z<][a-z<>-]*(?:\.[a-z<][a-z<>-]*)?")


def code_keys() -> set[str]:
    """The keys in the package's strings, and those that strategy options can be given by."""
    own = {p.option for m in methods.load().values() for p in m.hyperparameters}
    found = {f"merge-eval.{name}" for name in [*merge_options.GENERAL, "<option>"]}
    found |= {f"merge-eval.driver.{name}" for name in ("device", "accumulate", "memory")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(KEY.findall(node.value))
    return {_general(key, own) for key in found} - {"merge-eval.driver"}


def _general(key: str, options: set[str]) -> str:
    head, _, last = key.rpartition(".")
    return f"{head}.<option>" if last in options else key


def test_configuration_keys_are_those_of_the_reference():
    own = {p.option for m in methods.load().values() for p in m.hyperparameters}
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    documented = {_general(key, own) for key in KEY.findall(text)} - {"merge-eval.driver"}
    assert documented == code_keys()


@each_page
def test_pages_name_no_other_key(page):
    own = {p.option for m in methods.load().values() for p in m.hyperparameters}
    named = {_general(key, own) for key in KEY.findall(page.read_text(encoding="utf-8"))}
    assert named - {"merge-eval.driver"} <= code_keys()


# --- docstrings ----------------------------------------------------------------------------------


def undocumented(path: Path) -> list[str]:
    """The public functions, classes and methods of a file that have no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else ["the module"]

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                missing.append(f"{prefix}{node.name} (line {node.lineno})")
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    return missing


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_everything_public_has_a_docstring(path):
    assert undocumented(path) == []
