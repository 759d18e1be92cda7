"""A failure, explained: what happened, why, the one thing to do, and the exit code.

The rules are data in `diagnosis.toml`, which says how they are read; this module finds the rule that fits a failure
and fills in its texts. It knows the AWS SDK's exceptions by name only, imports nothing of it, and prints nothing.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any, NamedTuple

_RULES = Path(__file__).with_name("diagnosis.toml")
# Lengths in characters: of a foreign text in a line for people, of one that is kept at all, and of one that is read
# (a refused parameter is quoted whole, and may be an image).
_SHOWN, _KEPT, _READ = 400, 4000, 100_000
_FLAGS = ("profile", "region")
# The member of an error's `response` with the ids that can be called instead, where somebody has found them.
INFERENCE_PROFILES = "InferenceProfiles"

# What must not be shown; the first group of each stays.
_SECRETS = [
    r"(Invalid header value ).+",  # it quotes the header that has the key
    r"(?i)(\bBearer )[^\s'\",]{16,}",
    r"(://)[^/\s'\"]*(?=@)",
    r"(?i)((?:token|credential|signature)=)[^&,\s'\"]+",
    r"(?i)((?:secret_?access_?key|session_?token|bearer_token_bedrock)[\s'\"]*[:=][\s'\"]*)[^\s'\",}]+",
    r"()\b(?:ABSK|bedrock-api-key-)[\w+/=.-]{8,}",
    r"()\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b",
    # A secret access key: 40 characters of base64, of all three kinds, which neither a word nor a hash is.
    r"()(?<![\w+/=.-])(?=[a-z0-9+/]*[A-Z])(?=[A-Z0-9+/]*[a-z])(?=[A-Za-z+/]*[0-9])[A-Za-z0-9+/]{40}(?![\w+/=-])",
]


class Diagnosis(NamedTuple):
    """What to tell about a failure. All texts but `detail` are single lines; `why` and `fix` may be empty.

    Where the failure explained itself, `what` is as it said it, and may point into a text on lines of its own.

    `name` is the rule's, and a heading of docs/errors.md (empty where the failure explained itself). `detail` is the
    text of AWS or of the exception, with its code. `request_id` is AWS's, or empty.
    """

    name: str
    what: str
    why: str
    fix: str
    detail: str
    request_id: str
    exit_code: int


def explain(  # six: what the texts speak of
    failure: BaseException,
    *,
    model: str = "",
    geo: str = "global",
    region: str = "",
    profile: str = "",
) -> Diagnosis:
    """Explain a failure.

    Args:
        failure: any exception; one with the attributes `fix` and `exit_code`, or with such a cause, explains itself.
        model: the `modelId` that was sent.
        geo: the geography of the inference profiles in use, such as `global` or `eu`.
        region: the AWS region in use.
        profile: the profile in use, of the AWS configuration files.

    Returns:
        The diagnosis. Secrets are taken out of its texts, control characters are not.
    """
    facts = _facts(failure)
    told = {"detail": facts.pop("detail"), "request_id": facts.pop("request_id")}
    for own in (failure, failure.__cause__):
        if own is not None and hasattr(own, "fix") and hasattr(own, "exit_code"):
            return Diagnosis("", redacted(str(own)), "", _line(own.fix), **told, exit_code=own.exit_code)
    facts |= {"model": model, "profile": profile, "region": region or facts["region"]}
    rule, found = _rule(facts)
    words = {**facts, "error": type(failure).__name__, **found}
    if base := words["model"].rpartition("/")[2]:
        words["inference_profile"] = f"{geo}.{base}"
    words["other_profile"] = f"global.{words['rest']}" if "rest" in words else ""
    if valid := _profiles(failure):
        preferred = [each for each in valid if each.startswith(f"{geo}.")]
        words["inference_profile"] = words["other_profile"] = [*preferred, *valid][0]
        words["profiles"] = f". {words['region'] or 'Your region'} has: {', '.join(valid)}"
    words |= {"model": words["model"] or "the model", "region": words["region"] or "your region"}
    words |= {f"use_{name}": f" --{name} {facts[name]}" if facts[name] else "" for name in _FLAGS}
    what, why, fix = fill(rule, words)
    return Diagnosis(rule["name"], what, why, fix, **told, exit_code=rule["exit"])


def rules() -> list[dict[str, Any]]:
    """Read the rules, in the order in which they are tried."""
    import tomllib

    read: list[dict[str, Any]] = tomllib.loads(_RULES.read_text(encoding="utf-8"))["rule"]
    return read


def fill(rule: dict[str, Any], words: dict[str, str]) -> list[str]:
    """Return a rule's `what`, `why` and `fix`, each a single line; a word that is not known stays as its NAME."""
    known = _Words((name, _line(word)[:_SHOWN]) for name, word in words.items() if word)
    known.setdefault("profiles", "")
    known.update({f"use_{name}": words.get(f"use_{name}", f" --{name} NAME") for name in _FLAGS})
    what, why, fix = (rule[text].format_map(known) for text in ("what", "why", "fix"))
    return [what.rstrip("."), why.rstrip("."), fix]


def _profiles(failure: BaseException) -> list[str]:
    response = getattr(failure, "response", None)
    return list(response.get(INFERENCE_PROFILES, ())) if isinstance(response, dict) else []


class _Words(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name.upper()


def _facts(failure: BaseException) -> dict[str, str]:
    """Return what the patterns of the rules are about, without secrets."""
    response = getattr(failure, "response", None)
    response = response if isinstance(response, dict) else {}
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    text = redacted(str(error.get("Message") or failure))[:_KEPT]
    code = str(error.get("Code") or errno.errorcode.get(getattr(failure, "errno", None) or 0, ""))
    return {
        "error": " ".join(kind.__name__ for kind in type(failure).__mro__),
        "code": code,
        "status": str(metadata.get("HTTPStatusCode", "")),
        "operation": str(getattr(failure, "operation_name", "")),
        "text": text,
        "region": str(metadata.get("Region", "")),
        "attempts": str(metadata.get("RetryAttempts", 0) + 1),
        "detail": f"{code or type(failure).__name__}: {text}",
        "request_id": str(metadata.get("RequestId") or metadata.get("HTTPHeaders", {}).get("x-amzn-requestid", "")),
    }


def _rule(facts: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the first rule that fits, and what its named groups found."""
    for rule in rules():
        for patterns in rule["when"]:
            matches = [_match(subject, pattern, facts[subject]) for subject, pattern in patterns.items()]
            if all(matches):
                found = {name: word for match in matches if match for name, word in match.groupdict().items()}
                return rule, {name: word for name, word in found.items() if word}
    raise AssertionError("the last rule fits everything")


def _match(subject: str, pattern: str, fact: str) -> re.Match[str] | None:
    if subject == "text":
        return re.search(pattern, fact, re.IGNORECASE | re.DOTALL)
    names = fact.split() if subject == "error" else [fact]
    return next(filter(None, (re.fullmatch(pattern, name, re.IGNORECASE) for name in names)), None)


def redacted(text: str) -> str:
    """Take out what may be a secret: keys, tokens, passwords in addresses."""
    text = text[:_READ]
    for secret in _SECRETS:
        text = re.sub(secret, r"\1***", text, flags=re.DOTALL)
    return text


def _line(text: str) -> str:
    return " ".join(text.split())
