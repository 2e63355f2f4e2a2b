"""The licences of models that are merged, and under which one the result may be passed on.

A merge is taken for an adaptation of every model in it. What is known of a licence is in
:data:`LICENCES`, each with the place where its text says so; whatever is not there is not known.
Nothing here is legal advice, and 'not known to be allowed' does not mean forbidden.

Rules, in this order:

1. a constituent without a licence, or with one that is not in the table: not known;
2. a licence that keeps adaptations from being shared (ND): not known, whatever stands beside it;
3. the same licence everywhere: the result is under that licence;
4. only licences that ask for no more than attribution: each asks for its own, and the result is
   under all of them together;
5. anything else: not known, and each pair is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

CC = "https://creativecommons.org/licenses"
SPDX = "https://spdx.org/licenses"
RAIL_DUTY = "pass on its use restrictions (attachment A), with a copy of it"
_FREE, _ATTRIBUTION, _SHARE_ALIKE = "public domain", "attribution", "share alike"
_COMMERCE, _NO_ADAPTATIONS, _USES = "non-commercial", "no adaptations", "use restrictions"


@dataclass(frozen=True)
class Licence:
    """What is known of a licence."""

    kind: str
    duty: str
    """What whoever passes the model on has to do; '' for nothing."""
    source: str
    """Where its text says so."""


def _creative(kind: str, name: str, version: str, duty: str, section: str) -> Licence:
    return Licence(kind, duty, f"{CC}/{name}/{version}/legalcode, section {section}")


def _attributed(name: str, version: str) -> Licence:
    duty = "name the authors, link the licence, say what was changed"
    section = {"4.0": "3(a)", "3.0": "4(b)", "2.5": "4(b)", "2.0": "4(b)"}[version]
    return _creative(_ATTRIBUTION, name, version, duty, section)


NOTICE = "keep its copyright notice and its text"
LICENCES: Mapping[str, Licence] = {
    "0BSD": Licence(_FREE, "", f"{SPDX}/0BSD.html"),
    "CC0-1.0": Licence(
        _FREE, "", "https://creativecommons.org/publicdomain/zero/1.0/legalcode, section 2"
    ),
    "MIT-0": Licence(_FREE, "", f"{SPDX}/MIT-0.html"),
    "Unlicense": Licence(_FREE, "", f"{SPDX}/Unlicense.html"),
    "MIT": Licence(_ATTRIBUTION, NOTICE, f"{SPDX}/MIT.html, second paragraph"),
    "ISC": Licence(_ATTRIBUTION, NOTICE, f"{SPDX}/ISC.html, first paragraph"),
    "BSD-2-Clause": Licence(_ATTRIBUTION, NOTICE, f"{SPDX}/BSD-2-Clause.html, clauses 1 and 2"),
    "BSD-3-Clause": Licence(
        _ATTRIBUTION,
        f"{NOTICE}; do not advertise with its authors' names",
        f"{SPDX}/BSD-3-Clause.html, clauses 1 to 3",
    ),
    "Apache-2.0": Licence(
        _ATTRIBUTION,
        "give its text and its NOTICE file along, keep notices, say that it was changed",
        "https://www.apache.org/licenses/LICENSE-2.0, section 4",
    ),
    **{f"CC-BY-{v}": _attributed("by", v) for v in ("2.0", "2.5", "3.0", "4.0")},
    "CC-BY-SA-4.0": _creative(
        _SHARE_ALIKE, "by-sa", "4.0", "attribution, and this licence for the result", "3(b)"
    ),
    "CC-BY-NC-4.0": _creative(
        _COMMERCE, "by-nc", "4.0", "attribution, and no commercial use", "2(a)(1) and 3(a)"
    ),
    "CC-BY-NC-SA-4.0": _creative(
        _COMMERCE, "by-nc-sa", "4.0",
        "attribution, no commercial use, and this licence for the result", "2(a)(1) and 3(b)",
    ),
    "CC-BY-ND-4.0": _creative(
        _NO_ADAPTATIONS, "by-nd", "4.0", "adaptations may not be shared", "2(a)(1)(B)"
    ),
    "CC-BY-NC-ND-4.0": _creative(
        _NO_ADAPTATIONS, "by-nc-nd", "4.0", "adaptations may not be shared", "2(a)(1)(B)"
    ),
    "GPL-3.0-only": Licence(
        _SHARE_ALIKE,
        "this licence for the whole result, with notices of what was changed",
        "https://www.gnu.org/licenses/gpl-3.0.html, section 5",
    ),
    "AGPL-3.0-only": Licence(
        _SHARE_ALIKE,
        "this licence for the whole result, for users over a network, too",
        "https://www.gnu.org/licenses/agpl-3.0.html, sections 5 and 13",
    ),
    "openrail++": Licence(
        _USES,
        RAIL_DUTY,
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md, "
        "paragraphs 4 and 5",
    ),
    "creativeml-openrail-m": Licence(
        _USES,
        RAIL_DUTY,
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license, paragraphs 4 and 5",
    ),
    "bigscience-openrail-m": Licence(
        _USES, RAIL_DUTY, "https://huggingface.co/spaces/bigscience/license, paragraphs 4 and 5"
    ),
    "gemma": Licence(
        _USES,
        "pass on its use restrictions, give its terms along, say that it was changed",
        "https://ai.google.dev/gemma/terms, section 3.1",
    ),
    "llama2": Licence(
        _USES,
        "give the agreement and its notice along, keep to its acceptable use policy",
        "https://ai.meta.com/llama/license, section 1.b",
    ),
    "llama3": Licence(
        _USES,
        "give the agreement along, say 'Built with Meta Llama 3', let the name begin with "
        "'Llama 3', keep to its acceptable use policy",
        "https://www.llama.com/llama3/license, section 1.b",
    ),
    **{
        name: Licence(
            _USES,
            "give the agreement along, say 'Built with Llama', let the name begin with 'Llama', "
            "keep to its acceptable use policy",
            f"https://www.llama.com/{place}/license, section 1.b",
        )
        for name, place in (
            ("llama3.1", "llama3_1"), ("llama3.2", "llama3_2"), ("llama3.3", "llama3_3")
        )
    },
}  # fmt: skip

HUB_ALIASES = {"gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only"}
"""What the Hub calls by a name that SPDX has given up, as SPDX calls it now."""
HUB_NAMES = frozenset(
    {
        "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd-2-clause", "bsd-3-clause",
        "bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "gemma", "gpl-2.0", "gpl-3.0", "isc",
        "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "mit", "mpl-2.0", "openrail++",
        "unlicense",
    }
)  # fmt: skip
"""Identifiers that the Hub takes as a card's ``license``
(https://huggingface.co/docs/hub/repositories-licenses); any other is 'other' with a name."""


@dataclass(frozen=True)
class Part:
    """A model that is merged, and the licence that its branch declares."""

    name: str
    licence: str | None


@dataclass(frozen=True)
class Combined:
    """What the licences of all parts come to."""

    expression: str = ""
    """An SPDX expression, or a name of the Hub's; '' where it is not known to be allowed."""
    duties: tuple[str, ...] = ()
    """What each licence asks for, and where it says so."""
    problems: tuple[str, ...] = ()
    """Why it is not known to be allowed, by the names of the parts."""

    @property
    def is_known(self) -> bool:
        """Whether all of it is known to be allowed."""
        return bool(self.expression)

    def front_matter(self) -> dict[str, str]:
        """The card's fields of the licence, as the Hub reads them.

        >>> combined([Part("a", "MIT"), Part("b", "mit")]).front_matter()
        {'license': 'mit'}
        >>> combined([Part("a", "MIT"), Part("b", "Apache-2.0")]).front_matter()
        {'license': 'other', 'license_name': 'apache-2.0-and-mit'}
        >>> combined([Part("a", "MIT"), Part("b", None)]).front_matter()
        {'license': 'unknown'}
        """
        if not self.is_known:
            return {"license": "unknown"}
        back = {spdx: hub for hub, spdx in HUB_ALIASES.items()}
        name = back.get(self.expression, self.expression.lower())
        if name in HUB_NAMES:
            return {"license": name}
        return {"license": "other", "license_name": name.replace(" ", "-")}


def canonical(text: str) -> str:
    """A licence's identifier as SPDX spells it, or as the Hub does what SPDX does not know.

    What neither knows comes back as it is.

    >>> canonical("apache-2.0"), canonical("OpenRAIL++"), canonical("gpl-3.0")
    ('Apache-2.0', 'openrail++', 'GPL-3.0-only')
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    plain = " ".join(text.split())
    if plain.lower() in HUB_ALIASES:
        return HUB_ALIASES[plain.lower()]
    if plain.lower() in LICENCES:
        return plain.lower()
    try:
        return str(canonicalize_license_expression(plain))
    except InvalidLicenseExpression:
        return plain


def combined(parts: Sequence[Part]) -> Combined:
    """Under what the merge of ``parts`` may be passed on, by the rules above."""
    by_licence: dict[str, list[str]] = {}
    for part in parts:
        by_licence.setdefault(canonical(part.licence) if part.licence else "", []).append(part.name)
    problems = [problem for name, of in by_licence.items() if (problem := _problem(name, of))]
    known = {name: LICENCES[name] for name in sorted(by_licence) if name in LICENCES}
    duties = tuple(
        f"{name} ({', '.join(by_licence[name])}): {licence.duty or 'nothing'}; {licence.source}"
        for name, licence in known.items()
    )
    problems += [
        f"{first} ({', '.join(by_licence[first])}) with {second} "
        f"({', '.join(by_licence[second])}): {_why(known[first], known[second])}"
        for first, second in combinations(known, 2)
        if not {known[first].kind, known[second].kind} <= {_FREE, _ATTRIBUTION}
    ]
    if problems or not parts:
        return Combined("", duties, tuple(problems))
    asking = [name for name, licence in known.items() if licence.kind != _FREE]
    return Combined(" AND ".join(asking or known), duties)


def _problem(name: str, of: Sequence[str]) -> str:
    """What keeps models of one licence from being merged, whatever stands beside them."""
    who = ", ".join(of)
    if not name:
        return f"{who}: no licence is declared"
    if name not in LICENCES:
        return f"{who}: what '{name}' allows is not known here; read it"
    if LICENCES[name].kind == _NO_ADAPTATIONS:
        return f"{who}: {name} does not let adaptations be shared ({LICENCES[name].source})"
    return ""


def _why(first: Licence, second: Licence) -> str:
    kinds = [one.kind for one in (first, second) if one.kind not in (_FREE, _ATTRIBUTION)]
    return f"terms of {' and of '.join(dict.fromkeys(kinds))} beside those of another licence"
