"""The one gate for outbound bytes: what of a request may leave the device, and in which words.

`release` alone makes a Released, and clouds accept nothing else.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from edgeai.egress.choices import ask_for_label
from edgeai.egress.disclose import disclosed, parse_disclose
from edgeai.egress.labels import Privacy, Rules, verdicts
from edgeai.egress.redact import Vault, redact_message, redact_tool, texts_of
from edgeai.egress.redaction import Redaction
from edgeai.egress.relevant import shorten
from edgeai.egress.restore import Restorer
from edgeai.errors import CloudProtocol, PrivacyViolation
from edgeai.types import Image, Message, Released, Request, Text

PLACEHOLDER_NOTE = (
    "Names in angle brackets, such as <EMAIL_1>, stand for details that are not shown. "
    "Where you need one, write it exactly as it is."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What leaves for one request, and what is needed to make its answer whole again.

    ``labels`` are those of the messages in it, ``redactions`` counts the placeholders in it by kind.
    ``originals`` are the secrets by placeholder; they stay on the device.
    """

    released: Released
    labels: tuple[str, ...] = ()
    redactions: Mapping[str, int] = field(default_factory=dict)
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)

    def restorer(self) -> Restorer:
        """What puts the secrets back into the answer; one for each answer."""
        return Restorer(self.originals, in_json=self.released.schema is not None)


def release(
    request: Request,
    *,
    privacy: Privacy,
    disclose: str = "all",
    endpoint: str = "",
    labels: Rules = MappingProxyType({}),
    redaction: Redaction = Redaction(),
    document_chars: int | None = None,
) -> Outbound:
    """What a cloud at ``endpoint`` may see of this request; see `Policy` for the other arguments.

    Raises PrivacyViolation unless ``privacy`` is "redact" or "allow", when a message to be sent is private or
    labelled for staying (it is not dropped silently, because the answer would then be to another question),
    and when too much of the question would have to be replaced. Raises CloudProtocol for a grammar, which no
    cloud keeps to, ConfigError for an unknown ``disclose``, and MissingExtra when redaction is not installed.
    """
    if privacy not in ("redact", "allow"):
        raise PrivacyViolation(
            "The query may not leave the device",
            why=f"The policy says privacy={privacy!r}",
            remedy='Use Policy(privacy="allow") if it may',
        )
    chosen = disclosed(request.messages, parse_disclose(disclose))
    allowed = [verdicts(message, labels, endpoint, privacy) for message in chosen]
    if request.grammar is not None:
        raise CloudProtocol("The cloud cannot keep to a grammar", remedy="Use a JSON schema instead")
    vault = None
    if privacy == "redact" or any("redact" in verdict for verdict in allowed):
        vault = _vault(request, redaction)
        _check_share(chosen, allowed, vault, redaction.max_share)
        chosen = tuple(redact_message(m, v, vault) for m, v in zip(chosen, allowed, strict=True))
    if document_chars is not None:
        chosen = tuple(_shortened(chosen, document_chars))
    return _outbound(request, chosen, vault if privacy == "redact" else None, vault)


def _outbound(
    request: Request, messages: tuple[Message, ...], rest: Vault | None, vault: Vault | None
) -> Outbound:
    """``rest`` is the vault when what has no labels (choices, tools, schema) is to be redacted, too."""
    names = tuple(sorted({name for message in messages for name in message.labels}))
    choices, examples = request.choices, request.examples
    tools, schema, stop = request.tools, request.schema, request.stop
    if rest is not None:
        choices = tuple(map(rest.redact, choices))
        examples = tuple((rest.redact(text), rest.redact(label)) for text, label in examples)
        tools = tuple(redact_tool(tool, rest) for tool in tools)
        schema = None if schema is None else rest.redact_json(schema)
        stop = tuple(map(rest.redact, stop))
    if vault is not None and any(
        name in text for m in messages for text in texts_of(m) for name in vault.originals
    ):
        messages = (Message("system", PLACEHOLDER_NOTE), *messages)
    if choices:
        messages = ask_for_label(messages, choices, examples)
    released = Released(
        messages=messages,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        stop=stop,
        schema=schema,
        tools=tools,
    )
    if vault is None:
        return Outbound(released=released, labels=names)
    counts = _count(released, vault.originals)
    return Outbound(released=released, labels=names, redactions=counts, originals=dict(vault.originals))


def _vault(request: Request, redaction: Redaction) -> Vault:
    """Numbered by all that was said so far, so that placeholders stay the same in later turns."""
    from edgeai.egress.recognise import find  # loads the extra

    public = [message for message in request.messages if not message.holds_private]
    said = [text for message in public for text in texts_of(message)]
    other = [
        json.dumps([request.choices, request.examples, request.schema, request.stop], ensure_ascii=False)
    ]
    other += [
        f"{tool.description} {json.dumps(tool.parameters, ensure_ascii=False)}" for tool in request.tools
    ]
    vault = Vault(partial(find, redaction=redaction), [*said, *other])
    for message in public:
        vault.redact(message.text)
    return vault


def _check_share(
    messages: Sequence[Message], allowed: Sequence[tuple[Privacy, ...]], vault: Vault, limit: float
) -> None:
    asked = [at for at, message in enumerate(messages) if message.role == "user" and "redact" in allowed[at]]
    share = vault.share(messages[asked[-1]].text) if asked else 0.0
    if share > limit:
        raise PrivacyViolation(
            f"Redaction would replace {share:.0%} of the question, more than {limit:.0%}",
            remedy="Ask without the secrets, or raise Redaction.max_share",
        )


def _shortened(messages: Sequence[Message], limit: int) -> Iterator[Message]:
    """Questions and tools' results cut to what has to do with the last question."""
    questions = [message.text for message in messages if message.role == "user"]
    question = shorten(questions[-1], "", 0) if questions else ""
    for message in messages:
        if message.role not in ("user", "tool"):
            yield message
        elif isinstance(message.content, str):
            yield replace(message, content=shorten(message.content, question, limit))
        else:
            yield replace(message, content=tuple(_short_part(p, question, limit) for p in message.content))


def _short_part(part: Text | Image, question: str, limit: int) -> Text | Image:
    return part if isinstance(part, Image) else replace(part, text=shorten(part.text, question, limit))


def _count(released: Released, originals: Mapping[str, str]) -> Mapping[str, int]:
    """How often placeholders of each kind stand in what is released, the note's example not counted."""
    said = [text for message in released.messages for text in texts_of(message)]
    said.append(json.dumps([released.schema, released.stop], ensure_ascii=False))
    said += [
        f"{tool.description} {json.dumps(tool.parameters, ensure_ascii=False)}" for tool in released.tools
    ]
    everything = "\n".join(said).replace(PLACEHOLDER_NOTE, "")
    counts: Counter[str] = Counter()
    for placeholder in originals:
        if n := everything.count(placeholder):
            counts[placeholder[1:].rpartition("_")[0]] += n
    return dict(counts)
