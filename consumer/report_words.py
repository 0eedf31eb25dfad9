"""What the report calls things, in words for a reader who has not read the documentation."""

from __future__ import annotations

from incremental.signals import NEARBY

BASELINES = (
    *("markov", "markov_latest", "own_recent", "own_frequent", "own_frequent_latest"),
    *("recent_popularity", "popularity"),
)
WITH_TIES = ("markov", "own_frequent")
"""Baselines that another one betters by how it treats ties: pictures are without them."""

COMPONENT = "One of the model's components, alone."

METHODS = {
    "tidemill": "The model: several components, ranked and mixed by what they were worth so far, learning as it goes.",
    "transformer": "The model's neural network alone.",
    "markov": "What most often followed the user's previous item.",
    "markov_latest": "What most often followed the user's previous item; of equals, what did so latest.",
    "own_recent": "The user's own latest items, latest first.",
    "own_frequent": "The user's own most frequent items.",
    "own_frequent_latest": "The user's own most frequent items; of equals, the latest.",
    "recent_popularity": "What most users chose lately; of three half-lives the best in hindsight.",
    "popularity": "What most users chose since the beginning.",
}

METRICS = {
    "hr@10": "Hit rate: share of events whose item was among the first ten. Higher is better.",
    "ndcg@10": "The same, but a hit at a later place counts less: 1 / log2(place + 1).",
    "mrr@10, mrr@20": "The same, with 1 / place.",
    "recall@20": "Share of events whose item was among the first twenty.",
    "log_loss": "Mean of -ln(probability given to the item), over the whole catalogue. Lower is better.",
    "ece": "Expected calibration error of the first guess: by how much its probability is off. Lower is better.",
}

UNITS = {"log_loss": " (nats)"}

GUESSES = {"item": "next item", "event_type": "event type"}

SIGNALS = {
    "log_loss": "log-loss of the model (nats)",
    "misses/known": "share of events of users with a long history whose item was not among the first ten",
    "lost_hits": "share of events of users with a long history whose item was not among the first ten, "
    "told because most of them became harder at once",
    "misses": "share of events whose item was not among the first ten",
    "unknown": "share of events with an unknown item",
    "event_type": "surprise of the event types (nats)",
    "time_gap": "surprise of the times between events (nats)",
    "active_users": f"share of the {NEARBY} events before an event that are of its user",
    "event_type/log_loss": "log-loss of the next event type (nats)",
    "next_event_s/pinball": "loss of the time to the next event (log-seconds)",
    "segment/log_loss": "log-loss of the mixture in a segment (nats)",
    "champion/network": "network: loss of its past copy, and of what came of it (nats)",
    "champion/ranker": "ranker: loss of its past copy, and of what came of it (nats)",
    "champion/type_head": "head of event types: loss of its past copy, and of what came of it (nats)",
    "champion/time_head": "head of times: loss of its past copy, and of what came of it (nats)",
    "recovered": "the log-loss is back where it was (nats)",
    "not_recovered": "the log-loss is not back, and taken for usual from now on (nats)",
}

SHORT = {
    "log_loss": "log-loss",
    "misses": "misses",
    "misses/known": "misses",
    "lost_hits": "lost hits",
    "unknown": "unknown items",
    "event_type": "event types",
    "time_gap": "times between events",
    "active_users": "active users",
    "event_type/log_loss": "head of types",
    "next_event_s/pinball": "head of times",
}
"""Signals beside a mark. Those of one component or segment stand in the table alone."""

ALARM_MARK, PART_MARK, ACTION_MARK = "drift detected", "drift of one part", "policy acted"
END_MARKS = {"recovered": "recovered", "not_recovered": "not recovered"}
"""Kinds of vertical marks on the quality curve."""


def mark_of(signal: str, action: str) -> str | None:
    """Return the kind of mark of a drift record; None where nothing was found and nothing done."""
    if action == "keep":
        return None
    alarm = PART_MARK if signal.startswith(("log_loss/", "segment/")) else ALARM_MARK
    return END_MARKS.get(signal, alarm if action == "observe" else ACTION_MARK)


def mark_words(signal: str, action: str) -> str:
    """Return the few words beside a mark: the signal that rose, or what was done; none where its kind says it all."""
    if action.startswith("roll_back"):
        return in_words(action)
    return SHORT.get(signal, "")


def in_words(action: str) -> str:
    """Return actions as text that a narrow column can break."""
    return action.replace("+", ", ").replace("_", " ")


def signal_in_words(signal: str) -> str:
    """Return what a signal is, for people."""
    head, _, component = signal.partition("/")
    return f"log-loss of {component} alone (nats)" if head == "log_loss" and component else SIGNALS.get(signal, signal)
