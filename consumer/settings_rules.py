"""What must hold between settings; each one alone is checked by its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from consumer.describe_settings import HIDDEN
from consumer.errors import ConfigError
from consumer.mapping import FEATURE_PREFIX, field_mapping, nearest
from consumer.presets import PRESETS
from model.components import COMPONENTS, left_out
from model.decay import HALF_LIVES

if TYPE_CHECKING:
    from consumer.settings import Settings

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

Rule = Callable[["Settings"], Iterator[str]]


def broken_rules(settings: Settings) -> list[str]:
    """Return one line for each rule that these settings break: the names, the values, what would do."""
    return [problem for rule in RULES for problem in rule(settings)]


def _sizes(settings: Settings) -> Iterator[str]:
    model, history, prediction = settings.model, settings.history, settings.prediction
    if model.dim % model.heads:
        yield f"model.dim = {model.dim}: must be a multiple of model.heads = {model.heads}"
    elif (model.dim // model.heads) % 2:
        yield f"model.dim = {model.dim}: must be an even multiple of model.heads = {model.heads}"
    if model.context > history.length:
        yield f"model.context = {model.context}: must be at most history.length = {history.length}"
    if prediction.top_k > model.proposals:
        yield f"prediction.top_k = {prediction.top_k}: must be at most model.proposals = {model.proposals}"


def _half_lives(settings: Settings) -> Iterator[str]:
    """What an event of a micro-batch weighs beside its first must stay a number."""
    least = settings.worker.batch_events / HALF_LIVES
    for name, value in settings.model:
        if name.endswith("half_life_events") and value < least:
            yield f"model.{name} = {value}: must be at least a {HALF_LIVES}th of worker.batch_events, {least:g}"


def _times(settings: Settings) -> Iterator[str]:
    """A commit that the client still waits for is no hang."""
    commit_s, least = settings.watchdog.commit_s, 2 * settings.kafka.request_timeout_ms / 1000
    if settings.watchdog.enabled and commit_s <= least:
        yield (
            f"watchdog.commit_s = {commit_s:g}: must be more than twice kafka.request_timeout_ms = "
            f"{settings.kafka.request_timeout_ms}, {least:g} s"
        )


def _comparison(settings: Settings) -> Iterator[str]:
    """Every guarded action begins the comparison with the copy anew: what is repeated sooner would put it off for ever."""
    policy = settings.policy
    acts = settings.drift.enabled and policy.enabled and policy.roll_back
    if acts and policy.cool_down_events < policy.champion_events:
        yield (
            f"policy.cool_down_events = {policy.cool_down_events}: must be at least policy.champion_events = "
            f"{policy.champion_events}, or the comparison with the copy may never end"
        )


def _left_out(settings: Settings) -> Iterator[str]:
    """Only components are left out, and not all of them."""
    names = left_out(settings.model.leave_out)
    for name in names:
        if name not in COMPONENTS:
            yield f"model.leave_out = {name!r}: no component is called that; {nearest(name, COMPONENTS)}"
    if set(names) >= set(COMPONENTS):
        yield "model.leave_out: one component at least must be left"


def _topics(settings: Settings) -> Iterator[str]:
    topics = {key: name for key, name in settings.topics if isinstance(name, str)}
    for key, name in topics.items():
        if not _TOPIC.fullmatch(name) or name in {".", ".."}:
            yield f"topics.{key} = {name!r}: must be 1 to 249 letters, digits, dots, underscores or hyphens"
    for (one, name), (other, its_name) in combinations(topics.items(), 2):
        if name == its_name:
            yield f"topics.{one} and topics.{other}: must differ, both are {name!r}"


def _names(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    if not all(server.strip() for server in kafka.bootstrap_servers.split(",")):
        yield f"kafka.bootstrap_servers = {kafka.bootstrap_servers!r}: must be host:port, or several with commas between"
    for key in ("group", "instance"):
        if not getattr(kafka, key).strip():
            yield f"kafka.{key}: must not be empty"


def _login(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    password = kafka.sasl_password is not None or kafka.sasl_password_file is not None
    given = {
        "sasl_mechanism": kafka.sasl_mechanism is not None,
        "sasl_username": kafka.sasl_username is not None,
        "sasl_password or kafka.sasl_password_file": password,
    }
    if kafka.security_protocol.startswith("SASL"):
        for name in (name for name, there in given.items() if not there):
            yield f"kafka.{name}: must be set, because kafka.security_protocol = {kafka.security_protocol!r}"
    else:
        for name in (name for name, there in given.items() if there):
            yield f"kafka.{name}: needs kafka.security_protocol = 'SASL_SSL' or 'SASL_PLAINTEXT'"
    if kafka.sasl_password is not None and kafka.sasl_password_file is not None:
        yield "kafka.sasl_password and kafka.sasl_password_file: set one of them"


def _certificates(settings: Settings) -> Iterator[str]:
    kafka = settings.kafka
    if not kafka.security_protocol.endswith("SSL"):
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if getattr(kafka, key) is not None:
                yield f"kafka.{key}: needs kafka.security_protocol = 'SSL' or 'SASL_SSL'"
    elif kafka.ssl_keyfile is not None and kafka.ssl_certfile is None:
        yield "kafka.ssl_keyfile: needs kafka.ssl_certfile"


def _mapping(settings: Settings) -> Iterator[str]:
    try:
        field_mapping(settings.input)
    except ConfigError as error:
        yield str(error)


def _segment(settings: Settings) -> Iterator[str]:
    """A feature that segments are made by is mapped, or may be in the object that `features` is mapped to."""
    feature, mapped = settings.drift.segment, PRESETS[settings.input.preset].keys() | settings.input.map.keys()
    if feature and not mapped & {"features", f"{FEATURE_PREFIX}{feature}"}:
        yield f'drift.segment = {feature!r}: input.map must say where it is, "{FEATURE_PREFIX}{feature}" = "..."'


def _hidden(settings: Settings) -> Iterator[str]:
    """Text that `tidemill config show` has written does not hold the secrets."""
    kafka = settings.kafka
    if kafka.sasl_password is not None and kafka.sasl_password.get_secret_value() == HIDDEN:
        yield f"kafka.sasl_password: {HIDDEN} stands for a password that was not shown; set the password"
    for name in (name for name, value in kafka.properties.items() if value == HIDDEN):
        yield f"kafka.properties.{name}: {HIDDEN} stands for a value that was not shown; set the value"


RULES: tuple[Rule, ...] = (
    *(_sizes, _half_lives, _times, _comparison, _left_out, _topics, _names),
    *(_login, _certificates, _mapping, _segment, _hidden),
)
