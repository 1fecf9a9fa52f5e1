"""Classifies the errors of endpoints by status and message, whatever the server. Pure.

Servers agree on the status alone: the message is in ``error.message``, in ``message``, in a list ``detail``, or in
plain text. The question, which an error may quote, is ignored where the body has a message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MODERATION = re.compile(
    r"content[ _-]?(?:filter|policy|management|moderation)|moderat|\bflagged\b|jailbreak|responsible ?ai"
    r"|prohibited[ _]content|data[ _]inspection|inappropriate|sensitive (?:content|information|words)|\bunsafe\b"
    r"|safety (?:system|filter|polic|reason|check)|blocked by .{0,20}(?:safety|policy)|usage polic"
    r"|violat\w+ .{0,40}polic",
    re.IGNORECASE,
)
_ACCOUNT = re.compile(
    r"\bkey\b|api_key|authenti|authoriz|permission|access denied|no access|not have access|subscription|billing"
    r"|payment|credits?\b|balance|quota|deactivated|suspended|country|region|territory|terms of"
    r"|not allowed to (?:use|access|sample)",
    re.IGNORECASE,
)
_ACCOUNT_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "invalid_api_key", "account_deactivated", "model_not_found",
}  # fmt: skip
_UNKNOWN = re.compile(
    r"unsupported|not supported|n[o']t support|unknown|unrecogni[sz]ed|extra (?:inputs?|fields?)|extra_forbidden"
    r"|not permitted|not allowed|unexpected|cannot be (?:used|set|specified)|can't be (?:used|set)|deprecated"
    r"|not available|not a (?:valid|known)|invalid (?:parameter|argument|field|name)|is invalid|only the default"
    r"|no longer|must (?:not|be (?:1|unset|omitted|removed))|not implemented|incompatible|use '?max_completion_tokens",
    re.IGNORECASE,
)
_TOO_MUCH = re.compile(
    r"too (?:large|long|big|high|many)|at most|maximum|exceed|context (?:length|window)|less than", re.IGNORECASE
)
_SERVER_STATUS = (408, 409, 425)
_ALIASES = {"max_tokens": "max_(?:completion_)?tokens"}
"""Other names of a parameter in messages."""


def reason_in(body: Any) -> tuple[str, str]:
    """Code and message in the body of an error, each empty where it is missing.

    >>> reason_in({"error": {"message": "no seed", "code": 400, "type": "invalid_request_error"}})
    ('400 invalid_request_error', 'no seed')
    >>> reason_in({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}]})
    ('', 'body.seed: Extra inputs are not permitted')
    """
    if isinstance(body, list) and len(body) == 1:  # Google's
        return reason_in(body[0])
    if not isinstance(body, dict):
        return "", body if isinstance(body, str) else ""
    inner = body.get("error", body)
    if not isinstance(inner, dict):
        return "", str(inner)
    codes = (inner.get(name) for name in ("code", "type", "status"))
    code = " ".join(str(code) for code in codes if isinstance(code, (str, int)))
    return code, "; ".join(_messages(inner))


def _messages(inner: dict[str, Any]) -> Iterator[str]:
    for name in ("message", "detail", "msg"):
        found = inner.get(name)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, str) and one:
                yield one
            elif isinstance(one, dict) and name != "msg":
                place = ".".join(str(part) for part in one.get("loc") or ())
                words = "; ".join(_messages(one))
                yield f"{place}: {words}" if place else words
    metadata = inner.get("metadata")
    if isinstance(metadata, dict):  # OpenRouter's: what the provider behind it said
        yield from (str(metadata[name])[:200] for name in ("reasons", "raw") if metadata.get(name))


def cause_of(status: int, code: str, words: str) -> str:
    """``"setup"`` (nothing can be asked), ``"refusal"``, ``"rate limit"``, ``"transport"`` or ``"rejected"``.

    >>> cause_of(402, "", "more credits needed"), cause_of(403, "", "Your input was flagged: violence")
    ('setup', 'refusal')
    >>> cause_of(403, "", "Forbidden"), cause_of(403, "", "Your key has no permission to use this model")
    ('rejected', 'setup')
    """
    if status in (401, 402, 404) or _ACCOUNT_CODES.intersection(code.split()):
        return "setup"
    if status == 429:
        return "rate limit"
    if status >= 500 or status in _SERVER_STATUS:
        return "transport"
    if status == 451 or _MODERATION.search(f"{code} {words}"):
        return "refusal"
    if (status == 403 and _ACCOUNT.search(words)) or "api_key_invalid" in f"{code} {words}".lower():
        return "setup"
    return "rejected"


def refused_parameters(status: int, param: str | None, words: str, sent: Collection[str]) -> list[str]:
    r"""The sent parameters that a server does not know or accept.

    Parameters whose value is too large are not among them: the user has to change them.

    >>> refused_parameters(400, None, "Unknown name 'seed': Cannot find field.", ["seed", "temperature"])
    ['seed']
    >>> refused_parameters(400, None, "max_tokens is too large: at most 1024 are supported", ["max_tokens"])
    []
    """
    if status in (401, 402, 403, 429) or not _UNKNOWN.search(words) or _TOO_MUCH.search(words):
        return []
    if param in sent:
        return [str(param)]
    return [name for name in sent if re.search(rf"(?<!\w){_ALIASES.get(name, name)}(?!\w)", words)]
