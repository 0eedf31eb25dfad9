"""What the report calls things, in words for a reader who has not read the documentation."""

from __future__ import annotations

BASELINES = ("markov", "own_recent", "own_frequent", "recent_popularity", "popularity")

COMPONENT = "One of the model's components, alone."

METHODS = {
    "tidemill": "The model: several components, ranked and mixed by what they were worth so far, learning as it goes.",
    "transformer": "The model's neural network alone.",
    "markov": "What most often followed the user's previous item.",
    "own_recent": "The user's own latest items, latest first.",
    "own_frequent": "The user's own most frequent items.",
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
    "unknown": "share of events with an unknown item",
}
