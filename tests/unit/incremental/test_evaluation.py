from __future__ import annotations

import numpy as np
import pytest
from support import Worker, event, random_events, same_state, small_settings

from incremental.evaluation import Evaluation
from incremental.outcomes import MISS
from incremental.settings import DriftSettings, EvaluationSettings
from model.components import COMPONENTS
from model.gaps import QUANTILES


def evaluation_of(worker, *, baselines):
    settings = DriftSettings(warm_up_events=0)
    names = worker.model.mixture.names
    return Evaluation(EvaluationSettings(baselines=baselines), settings, names, 12, worker.settings.model, 10)


def evaluated(events, *, baselines=True, settings=None, batch=16):
    """Run a worker and its evaluation; returns both and all scores with their masks."""
    worker = Worker(settings)
    evaluation = evaluation_of(worker, baselines=baselines)
    scored = []
    for start in range(0, len(events), batch):
        step = worker.step(events[start : start + batch])
        contexts = step.staged.contexts
        evaluation.update(contexts, step.scores, exclude_seen=step.plan.exclude_seen, event=start)
        scored.append((contexts, step.scores))
    return worker, evaluation, scored


def test_the_sums_are_those_of_the_scored_events():
    _, evaluation, scored = evaluated(random_events(160))
    result = evaluation.prequential.result()
    rank, loss, emitted = [], [], []
    for contexts, scores in scored:
        mask = contexts.learn_B & ~contexts.first_B
        rank += scores.rank_B[mask].tolist()
        loss += (-scores.log_prob_B[mask]).tolist()
        emitted += scores.emitted_rank_B[mask].tolist()
    assert evaluation.prequential.scored == len(rank) == 160 - 8
    ours = result["metrics"]["tidemill"]
    assert ours["hr@10"] == pytest.approx(np.mean([r < 10 for r in rank]))
    assert ours["mrr@20"] == pytest.approx(np.mean([1 / (r + 1) if r < 20 else 0.0 for r in rank]))
    assert ours["log_loss"] == pytest.approx(np.mean(loss))
    published = np.mean([r < 10 for r in emitted])
    assert published < np.mean([r < 20 for r in emitted])
    assert result["emitted"]["tidemill"]["hr@10"] == pytest.approx(published)
    assert result["emitted"]["tidemill"]["recall@20"] == pytest.approx(published)  # no more than ten are published


def test_components_and_baselines_stand_beside_the_whole():
    _, evaluation, scored = evaluated(random_events(160))
    result = evaluation.prequential.result()
    assert {"tidemill", "transformer", "recency_popularity", "own_items", "popularity", "markov"} <= set(
        result["metrics"]
    )
    loss = np.concatenate([-np.log(s.p_BM[c.learn_B & ~c.first_B, 0]) for c, s in scored])
    assert result["metrics"]["transformer"]["log_loss"] == pytest.approx(loss.mean())
    hits = np.concatenate([s.rank_MB[COMPONENTS.index("own_items")][c.learn_B & ~c.first_B] < 20 for c, s in scored])
    assert result["metrics"]["own_items"]["recall@20"] == pytest.approx(hits.mean())


def test_without_baselines_the_components_remain():
    _, evaluation, _ = evaluated(random_events(64), baselines=False)
    result = evaluation.prequential.result()
    assert set(result["metrics"]) == {"tidemill", *COMPONENTS}
    assert set(result["heads"]["event_type"]) == {"tidemill"}


def test_the_heads_are_judged_by_their_definitions():
    _, evaluation, scored = evaluated(random_events(160), baselines=False)
    heads = evaluation.prequential.result()["heads"]
    right, error, loss = [], [], []
    for contexts, scores in scored:
        mask = contexts.learn_B & ~contexts.first_B
        if scores.type_p_BY is not None:
            right += (scores.type_p_BY.argmax(axis=1) == scores.type_B)[mask].tolist()
        gap, quantiles = scores.log_gap_B[mask], scores.gap_quantiles_B3[mask]
        error += np.abs(gap - quantiles[:, 1]).tolist()
        for level, predicted in zip(QUANTILES, quantiles.T, strict=True):
            loss += np.where(gap >= predicted, level * (gap - predicted), (1 - level) * (predicted - gap)).tolist()
    assert heads["event_type"]["tidemill"]["accuracy"] == pytest.approx(np.mean(right))
    assert heads["next_event_s"]["tidemill"]["mae_log"] == pytest.approx(np.nanmean(error))
    assert heads["next_event_s"]["tidemill"]["pinball"] == pytest.approx(np.nanmean(loss))


def test_calibration_is_that_of_the_first_guesses():
    _, evaluation, scored = evaluated(random_events(160), baselines=False)
    calibration = evaluation.prequential.result()["calibration"]
    p, right, kinds, late = [], [], 0, []
    for contexts, scores in scored:
        mask = contexts.learn_B & ~contexts.first_B
        listed = mask & (scores.top_p_B > 0.0)
        p += scores.top_p_B[listed].tolist()
        right += (scores.rank_B[listed] == 0).tolist()
        kinds += 0 if scores.type_p_BY is None else int(mask.sum())
        late.append(scores.log_gap_B[mask, None] < scores.gap_quantiles_B3[mask])
    bins = calibration["item"]["bins"]
    assert sum(one["events"] * one["confidence"] for one in bins) == pytest.approx(sum(p))
    assert sum(one["events"] * one["accuracy"] for one in bins) == pytest.approx(sum(right))
    assert sum(one["events"] for one in calibration["event_type"]["bins"]) == kinds
    shares = np.concatenate(late).mean(axis=0).tolist()
    assert list(calibration["next_event_s"].values()) == pytest.approx(shares, abs=0.02)


def test_new_items_are_the_first_ten_appearances():
    events = [event(f"u{n % 3}", "old" if n % 2 else f"i{n}", 10.0 * n) for n in range(90)]
    _, evaluation, scored = evaluated(events, baselines=False)
    rank = np.concatenate([scores.rank_B for _, scores in scored])
    first = np.concatenate([contexts.first_B for contexts, _ in scored])
    new = np.array([not n % 2 or n // 2 < 10 for n in range(90)])
    figures = evaluation.prequential.result()["new_items"]["tidemill"]
    assert figures["recall@20"] == pytest.approx((rank[new & ~first] < 20).mean())


@pytest.mark.parametrize(("kinds", "timed", "heads"), [(("a",), False, set()), (("a", "b"), False, {"event_type"})])
def test_heads_that_the_stream_does_not_feed_are_left_out(kinds, timed, heads):
    _, evaluation, _ = evaluated(random_events(64, kinds=kinds, timed=timed))
    assert set(evaluation.prequential.result()["heads"]) == heads


def test_repeated_and_skipped_events_are_not_judged():
    events = [event("u", n % 3, 10.0 * n, event_id=f"e{n}") for n in range(32)]
    doubled = [e for one in events for e in (one, event("u", 2, one.event_time, event_id=f"e{events.index(one)}"))]
    _, plain, _ = evaluated(events)
    _, evaluation, _ = evaluated(doubled, batch=32)
    assert evaluation.prequential.scored == plain.prequential.scored == 31


def test_an_item_first_seen_in_its_micro_batch_is_a_miss_for_us():
    _, evaluation, scored = evaluated([event("u", n, 1.0 * n) for n in range(64)])
    assert evaluation.prequential.result()["metrics"]["tidemill"]["recall@20"] == 0.0
    assert all((s.rank_B == MISS).all() for _, s in scored)


def test_a_change_for_the_worse_is_detected_soon_and_not_before():
    quiet = [event(f"u{n % 4}", n % 8, 10.0 * n) for n in range(2560)]
    wild = [event(f"u{n % 4}", 1000 + n, 10.0 * n) for n in range(2560, 3840)]
    worker = Worker()
    evaluation = evaluation_of(worker, baselines=False)
    found = []
    for start in range(0, 3840, 64):
        step = worker.step((quiet + wild)[start : start + 64])
        found += evaluation.update(step.staged.contexts, step.scores, exclude_seen=False, event=start)
    late = [d for d in found if d.event >= 2560]
    assert {d.signal for d in late} >= {"log_loss", "misses", "unknown"}
    assert min(d.event for d in late) < 2560 + 1024
    assert not [d for d in found if 1024 <= d.event < 2560]


def test_the_drift_monitor_is_what_a_snapshot_keeps():
    _, evaluation, _ = evaluated(random_events(320))
    worker, other, _ = evaluated(random_events(16))
    other.load(evaluation.state())
    assert same_state(evaluation.state(), other.state())
    step = worker.step(random_events(16, seed=7))
    for one in (evaluation, other):
        one.update(step.staged.contexts, step.scores, exclude_seen=False, event=320)
    assert same_state(evaluation.state(), other.state())


def test_a_micro_batch_of_nothing_is_no_trouble():
    worker, evaluation, _ = evaluated(random_events(32))
    staged, scores, _ = worker.look([])
    assert evaluation.update(staged.contexts, scores, exclude_seen=False, event=32) == []


def test_types_beyond_the_vocabulary_are_one_type_to_the_model_and_the_baselines():
    """300 random types of which the model tells 4 apart: "another one" is likely, for everyone, and names none."""
    draw = np.random.default_rng(4)
    events = [event(f"u{n % 9}", n % 12, 10.0 * n, kind=f"t{draw.integers(300)}") for n in range(900)]
    _, evaluation, _ = evaluated(events, settings=small_settings(model={"max_types": 4}), batch=32)
    heads = evaluation.prequential.result()["heads"]["event_type"]
    assert heads["mode"]["accuracy"] < 0.03
    assert heads["tidemill"]["accuracy"] < 0.03
    assert heads["tidemill"]["log_loss"] < heads["mode"]["log_loss"] < 0.4
