"""What the doctor is given, what it finds, and what it knows so far."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bx import diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from decimal import Decimal

    from bx.converse import Engine
    from bx.doctor.connection import Probe

OK, NOTE, PROBLEM, SKIPPED = "ok", "note", "problem", "skipped"
# What has to be right before it makes sense to connect, and before it makes sense to ask.
_PLACES = ("configuration", "region", "endpoint")
_FOUNDATIONS = (
    *_PLACES,
    *("sdk", "credentials", "sso", "dns", "tcp", "tls", "http", "proxy", "clock", "identity"),
)
_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws", ".api.amazonwebservices.com.cn")


class Finding(NamedTuple):
    """What a check has found.

    `verdict` is `ok`, `note`, `problem` or `skipped`. `evidence` is what was seen, and `fix` the one thing to do,
    both on single lines without secrets. `exit_code` is 0 but for a problem. `model` is the name of the model that a
    check is about, empty for others. `cause` is a heading of docs/errors.md, where a failure has one of these, and
    `request_id` AWS's, where it has refused something.
    """

    check: str
    verdict: str
    evidence: str
    fix: str = ""
    exit_code: int = 0
    model: str = ""
    cause: str = ""
    request_id: str = ""


class Cost(NamedTuple):
    """What calls cost: US dollars, or None where nothing is known of it; and how many of them have no known price."""

    calls: int
    usd: Decimal | None
    unknown: int


class Subject(NamedTuple):
    """A model to look at: its name, the id that is sent, and whether its failure is a problem, or else only a note.

    `failure` is why there is no id.
    """

    name: str
    id: str
    chosen: bool = False
    failure: Exception | None = None

    @property
    def embedded(self) -> bool:
        """Whether it runs on this machine."""
        return self.id.partition(":")[0] in ("local", "echo")


class Place(Protocol):
    """What the AWS SDK finds on this machine: see `bx.engines.surroundings.Surroundings`."""

    def sdk(self) -> tuple[str, list[str]]: ...  # noqa: D102
    def profile(self) -> str: ...  # noqa: D102
    def region(self) -> tuple[str, str]: ...  # noqa: D102
    def api_key(self) -> Any: ...  # noqa: D102
    def keys(self) -> Any: ...  # noqa: D102
    def sign_in(self) -> Any: ...  # noqa: D102
    def client(self, service: str) -> Any: ...  # noqa: D102
    def endpoint(self, service: str) -> str: ...  # noqa: D102
    def proxy(self, url: str) -> str: ...  # noqa: D102
    def authorities(self) -> str: ...  # noqa: D102


class Case(NamedTuple):
    """What the doctor is to look at.

    Args:
        place: makes what the AWS SDK finds on this machine.
        models: the models to look at.
        named: whether somebody has named these models, and wants to know of nothing else.
        region_from: where the region was chosen, such as `--region`; empty where that was left to the AWS SDK.
        variables: those of the AWS SDK's variables that are set and choose an endpoint or a proxy.
        network: whether anything may be sent at all.
        calls: whether models may be called, which costs a little.
        scope: the part of AWS that is asked: see `bx.aws.scope`.
        engine: what answers for embedded models.
        metered: makes an engine around a client, so that what is called stands in the ledger and within budgets.
        ledger: where the ledger is, and a function that says what is wrong with it; None where none is kept.
        cost: what a call costs in US dollars, from a row of the ledger; None where that is unknown.
    """

    place: Callable[[], Place]
    models: tuple[Subject, ...] = ()
    named: bool = False
    region_from: str = ""
    variables: Mapping[str, str] = {}
    network: bool = True
    calls: bool = True
    scope: str = ""
    engine: Engine | None = None
    metered: Callable[[Any], Engine] = lambda client: client
    ledger: tuple[str, Callable[[], str | None]] | None = None
    cost: Callable[[Mapping[str, Any]], Any] = lambda _: None


class Examination:
    """A case, and what is known so far."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.found: list[Finding] = []
        self.estimate: Cost | None = None  # of the calls that are made; None where none are
        self.spent: list[dict[str, Any]] = []  # what each answer took, as a row of the ledger
        self.profiles: dict[str, Any] | None = None  # as the account lists them, by id; None where it was not told
        self.foundation: dict[str, Any] | None = None

    @cached_property
    def place(self) -> Place:
        """What the AWS SDK finds on this machine."""
        return self.case.place()

    @cached_property
    def region(self) -> str:
        """The region in use; empty where it cannot be told."""
        try:
            return self.place.region()[0]
        except Exception:  # noqa: BLE001 # the check of the credentials says why
            return ""

    @cached_property
    def probe(self) -> Probe:
        """What came of connecting to the endpoint."""
        from bx.doctor.connection import connect

        url = self.place.endpoint("bedrock-runtime")
        return connect(url, self.place.proxy(url), self.place.authorities())

    @property
    def cut_off(self) -> str:
        """Why nothing can be connected to; empty where something can."""
        return self._before(_PLACES)

    @property
    def blocked(self) -> str:
        """Why nothing can be asked of AWS; empty where something can."""
        return self._before(_FOUNDATIONS)

    def failed(
        self, check: str, failure: BaseException, subject: Subject | None = None, *, brief: bool = False
    ) -> Finding:
        """Make a finding of a failure; a problem, but a note where it is a model's that nobody has chosen."""
        model = subject.id if subject else ""
        told = diagnosis.explain(failure, model=model, region=self.region, profile=self._profile())
        evidence = ". ".join(part for part in (told.what, told.why) if part) if not brief else told.what
        name = subject.name if subject else ""
        found = Finding(check, PROBLEM, evidence, told.fix, told.exit_code, name, told.name, told.request_id)
        return found if subject is None or subject.chosen else found._replace(verdict=NOTE, exit_code=0)

    def _before(self, checks: tuple[str, ...]) -> str:
        if not self.case.network:
            return "offline"
        bad = next((each for each in self.found if each.verdict == PROBLEM and each.check in checks), None)
        return f"not before this is set right: {bad.check}" if bad else ""

    def _profile(self) -> str:
        try:
            return self.place.profile()
        except Exception:  # noqa: BLE001 # it is no reason not to explain another failure
            return ""


def clean(finding: Finding) -> Finding:
    """Take out of a finding what may be a secret, and put its texts on single lines."""
    evidence, fix = (" ".join(diagnosis.redacted(text).split()) for text in (finding.evidence, finding.fix))
    return finding._replace(evidence=evidence, fix=fix)


def is_aws(url: str) -> bool:
    """Whether an address is one of AWS's own, and no stand-in or gateway."""
    import urllib.parse

    return (urllib.parse.urlsplit(url).hostname or "").endswith(_AWS)


def listed(words: Iterable[str]) -> str:
    """Join words as a sentence does: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
