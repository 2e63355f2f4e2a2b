"""GitHub's workflows of docs/ci, run here: their own shell steps and the real git."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CI = Path(__file__).parents[1] / "docs" / "ci"
NOT_RUN = {"Install"}
"""Steps that fetch packages: what they install is what runs the tests."""
_EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


@dataclass
class Workflow:
    """One workflow with a single job, and what GitHub would fill into it."""

    file: str
    context: Mapping[str, str]
    """expression, such as 'github.event.before' -> its value; what is missing is empty."""
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> dict[Any, Any]:
        loaded: dict[Any, Any] = yaml.safe_load((CI / self.file).read_text())
        return loaded

    @property
    def triggers(self) -> set[str]:
        """YAML reads the key 'on' as a truth."""
        return set(self.content[True])

    @property
    def steps(self) -> list[dict[str, Any]]:
        (job,) = self.content["jobs"].values()
        return list(job["steps"])

    def checkout(self) -> dict[str, str]:
        """What actions/checkout is told."""
        (step,) = (s for s in self.steps if str(s.get("uses", "")).startswith("actions/checkout@"))
        return {key: self.filled(str(value)) for key, value in step["with"].items()}

    def filled(self, text: str) -> str:
        """``text`` with GitHub's expressions replaced; of 'a || b' the first that is not empty."""

        def value(match: re.Match[str]) -> str:
            words = re.split(r"\s+\|\|\s+", match[1])
            known = [word[1:-1] if word[0] == "'" else self._known(word) for word in words]
            return next((one for one in known if one), "")

        return _EXPRESSION.sub(value, text)

    def _known(self, word: str) -> str:
        found = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", word)
        return self.outputs.get(found[2], "") if found else self.context.get(word, "")

    def run(self, folder: Path, programs: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The steps in a checkout, as GitHub's shell runs them, to the first that fails."""
        done = subprocess.CompletedProcess[str]([], 0, "", "")
        for step in self.steps:
            if "run" not in step or step.get("name") in NOT_RUN:
                continue
            if "if" in step and not self._holds(step["if"]):
                continue
            assert "${{" not in step["run"], "an expression in a script is read as a command"
            done = self._step(step, folder, programs)
            if done.returncode:
                break
        return done

    def _holds(self, condition: str) -> bool:
        left, right = condition.split(" == ")
        return self._known(left) == self._known(right)

    def _step(
        self, step: Mapping[str, Any], folder: Path, programs: Path | None
    ) -> subprocess.CompletedProcess[str]:
        output = folder.parent / "outputs.txt"
        summary = folder.parent / "summary.md"
        output.write_text("")
        path = f"{programs}{os.pathsep}" if programs else ""
        environment = {
            **os.environ,
            **{name: self.filled(str(value)) for name, value in step.get("env", {}).items()},
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "PATH": f"{path}{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            self.outputs[name] = value
        return done
