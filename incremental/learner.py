"""Learning while serving: after a micro-batch was scored and committed, everything that predicts learns from it.

`plan` decides, `learn` does; between them stands the commit. One learning step, in this order:

0. a copy of the weights that is kept beside an action is compared, and what the policy ordered is done;
1. vocabularies admit (and evict) the ids of the micro-batch; a new item starts near the mean of its context;
2. the counting components, the mixture and the ranker learn from what they were scored on;
3. the transformer takes one optimizer step on the new events and on rehearsed windows, under a guard: a step with a
   loss or gradient that is not finite changes nothing and is counted;
4. the new events join the rehearsal memory.

Events of users in quarantine are left out of all four.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import torch

from incremental.adaptation import Adaptation
from incremental.champion import Champion
from incremental.interventions import intervene
from incremental.plan import (
    LearnPlan,
    Measures,
    dropout,
    learning_rate,
    rehearsal_targets,
    rehearsal_windows,
    seed_for,
    step_of,
)
from incremental.quarantine import Quarantine, among
from incremental.rehearsal import Among, Drawn, Rehearsal
from incremental.repeats import RepeatRule
from model.guests import guests_of
from model.sequences import cut
from model.state import State
from model.vocabulary import UNKNOWN

if TYPE_CHECKING:
    from incremental.champion import Verdict
    from incremental.settings import LearningSettings, PolicySettings
    from model.contexts import Contexts, Int64
    from model.model import Model
    from model.predictor import Scores
    from model.settings import PredictionSettings
    from model.transformer import Loss
    from model.vocabulary import Rows

CONTEXT_ITEMS = 3
"""Items before a new one that its embedding starts from."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What one learning step did. `loss` is None where there was nothing for the network to learn.

    `quarantined` events were left out. `verdicts` are there when a copy of the weights has been compared for long enough.
    """

    events: int
    rehearsed: int
    admitted: int
    evicted: int
    loss: Loss | None
    quarantined: int = 0
    verdicts: tuple[Verdict, ...] = ()


class Learner:
    """Owns all state that learning changes: the model, the rehearsal memory, what the policy has under way."""

    def __init__(
        self,
        model: Model,
        settings: LearningSettings,
        prediction: PredictionSettings,
        policy: PolicySettings,
        seed: int,
    ) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self.adaptation = Adaptation(policy)
        self.champion: Champion | None = None
        self.quarantine = Quarantine()
        self.rehearsal = Rehearsal(settings.rehearsal_capacity, settings.rehearsal_length)
        self.repeats = RepeatRule(prediction.exclude_seen)
        self.batch = 0  # the last batch learned
        self.events = 0

    def plan(self, contexts: Contexts, *, learn: bool = True) -> LearnPlan:
        """Decide what will be learned from the next micro-batch; changes nothing."""
        batch, events = self.batch + 1, int(contexts.learn_B.sum())
        if not learn or not events:
            return self.plan_nothing()
        return self._plan(batch, events, self.adaptation.measures(self.rehearsal.made))

    def _plan(self, batch: int, events: int, measures: Measures) -> LearnPlan:
        settings = self.settings
        return LearnPlan(
            batch,
            True,
            learning_rate(settings, self.events, events) * measures.learning_rate_factor,
            rehearsal_windows(settings, events),
            rehearsal_targets(settings, events),
            settings.rehearsal_recent_share,
            settings.rehearsal_recent_windows,
            seed_for(self.seed, batch, "learn"),
            self.repeats.exclude,
            **asdict(measures),
        )

    def plan_nothing(self) -> LearnPlan:
        """Return the plan of a micro-batch of which nothing is learned: it has a number."""
        batch = self.batch + 1
        return LearnPlan(batch, False, 0.0, 0, 0, 0.0, 1, seed_for(self.seed, batch, "learn"), self.repeats.exclude)

    def pass_over(self, plan: LearnPlan) -> Learned:
        """Count a micro-batch of which nothing is learned."""
        self.batch = plan.batch
        return Learned(0, 0, 0, 0, None)

    def learn(self, contexts: Contexts, scores: Scores, plan: LearnPlan, left_out: Int64) -> Learned:
        """Do what the plan says, without the users `left_out`; the only place where what predicts is changed."""
        if not plan.learn:
            return self.pass_over(plan)
        self.batch = plan.batch
        verdicts = self._adapt(contexts, scores, plan)
        self.quarantine.learn(contexts.event_user_B[contexts.learn_B], -scores.log_prob_B[contexts.learn_B])
        accepted = int(contexts.learn_B.sum())
        contexts = replace(contexts, learn_B=contexts.learn_B & ~among(contexts.event_user_B, left_out))
        kept = np.flatnonzero(contexts.learn_B)
        admitted, evicted = self._admit(contexts, kept, plan)
        self._count(contexts, scores, kept, plan)
        rows = np.flatnonzero(~among(contexts.user_R, left_out))
        rehearsed, loss = self._step(contexts, rows, plan)
        self.rehearsal.add(contexts, rows)
        self.events += accepted
        return Learned(len(kept), rehearsed, admitted, evicted, loss, accepted - len(kept), verdicts)

    def left_out(self, plan: LearnPlan) -> Int64:
        """Return the keys of the users that are in quarantine in the micro-batch of a plan."""
        return self.quarantine.users(plan.quarantine_above)

    def show(self, contexts: Contexts, plan: LearnPlan) -> Contexts:
        """Let the states of a micro-batch look at those of its events that will be learned: none where nothing is.

        Items that come with these events are guests of the vocabulary until the next are, or until they are admitted.
        """
        shown_B = contexts.learn_B & ~among(contexts.event_user_B, self.left_out(plan))
        contexts = replace(contexts, shown_B=shown_B & plan.learn)
        self._receive(contexts)
        return contexts

    def _receive(self, contexts: Contexts) -> None:
        """Let the items that come with a micro-batch be guests, which begin as they would when they are admitted."""
        model = self.model
        model.items.see_off()
        events = guests_of(contexts, model.items)
        names = [contexts.item_ids_B[event] for event in events.tolist()]
        rows = model.items.receive(contexts.event_item_B[events], names, events)
        model.transformer.receive(rows, self._before(contexts, events))

    def _adapt(self, contexts: Contexts, scores: Scores, plan: LearnPlan) -> tuple[Verdict, ...]:
        """Compare the copy that is kept, do what was ordered, and judge when it is time."""
        adaptation = self.adaptation
        if self.champion is not None and plan.score_champion:
            self.champion.score(contexts, scores)
        self.champion = intervene(self.model, self.champion, plan, seed_for(self.seed, plan.batch, "restart"))
        adaptation.carried_out(plan, int(contexts.learn_B.sum()))
        if self.champion is None or not adaptation.is_time_to_judge:
            return ()
        verdicts = tuple(self.champion.verdicts())
        adaptation.judge(verdicts)
        return verdicts

    def _step(self, contexts: Contexts, rows: np.ndarray, plan: LearnPlan) -> tuple[int, Loss | None]:
        """Let the network learn the new events of these rows and rehearsed windows; returns how many of those."""
        fresh = cut(contexts, self.model.settings.context, self.model.items, self.model.types).only(rows)
        drawn = self._rehearse(plan)
        batches = [batch for batch in (fresh, drawn.windows) if batch is not None and len(batch.length_R)]
        dropped = dropout(self.model.settings.dropout, fresh.targets, drawn.targets)
        loss = self.model.transformer.learn(batches, step_of(plan, self.settings, dropped))
        return 0 if drawn.windows is None else len(drawn.windows.length_R), loss

    def _admit(self, contexts: Contexts, kept: np.ndarray, plan: LearnPlan) -> tuple[int, int]:
        model = self.model
        names = [contexts.item_ids_B[index] for index in kept]
        positions, evicted = model.items.observe(contexts.event_item_B[kept], names, self.events)
        model.evict(evicted)
        if self.champion is not None:
            self.champion.evict(evicted)
        model.types.observe(contexts.event_type_B[kept], [contexts.type_names_B[index] for index in kept], self.events)
        generator = torch.Generator().manual_seed(seed_for(self.seed, plan.batch, "admit"))
        events = kept[positions]
        rows = model.items.lookup(contexts.event_item_B[events])
        model.transformer.admit(rows, self._before(contexts, events), generator)
        return len(positions), len(evicted)

    def _before(self, contexts: Contexts, events: Int64) -> Rows:
        """Return the rows of the items just before each event, UNKNOWN where there are none, [G, CONTEXT_ITEMS]."""
        line = contexts.event_row_B[events]
        place_GK = contexts.state_position_Q[contexts.before_B[events]][:, None] - np.arange(CONTEXT_ITEMS)[::-1]
        keys_GK = contexts.items_RT[line[:, None], np.maximum(place_GK, 0)]
        return np.where(place_GK < 0, UNKNOWN, self.model.items.lookup(keys_GK))

    def _count(self, contexts: Contexts, scores: Scores, kept: np.ndarray, plan: LearnPlan) -> None:
        model = self.model
        model.unknown.learn(scores.target_B[kept])
        model.count(contexts, kept, plan.half_life_events or inf)
        scored = kept[~contexts.first_B[kept]]
        before = contexts.before_B[scored].astype(np.int64)
        model.own_items.learn(scores.views.own_items, before, scores.target_B[scored])
        model.latest_items.learn(scores.views.latest_items, before, scores.target_B[scored])
        model.mixture.learn(scores.p_BM[kept], scores.bucket_B[kept])
        model.calibrator.learn(scores.top_raw_B[kept], scores.rank_B[kept] == 0)
        types = model.types.lookup(contexts.event_type_B[kept]).astype(np.int64)
        model.heads.learn(
            scores.views.heads,
            contexts.before_B[kept].astype(np.int64),
            scores.type_B[kept].astype(np.int64),
            types,
            scores.log_gap_B[kept],
        )
        self._rank(contexts, scores, kept[scores.target_B[kept] != UNKNOWN])
        model.has_times |= bool(np.isfinite(scores.log_gap_B[kept]).any())
        self.repeats.learn(scores.repeat_B[scored])

    def _rank(self, contexts: Contexts, scores: Scores, known: np.ndarray) -> None:
        """Let the ranker learn from the lists in which admitted items that happened were looked for."""
        states = contexts.before_B[known].astype(np.int64)
        self.model.ranker.learn(scores.candidates, states, scores.column_B[known], scores.bucket_B[known])

    def _rehearse(self, plan: LearnPlan) -> Drawn:
        draw = np.random.default_rng(seed_for(self.seed, plan.batch, "rehearse"))
        among_ = Among(plan.rehearse_since, plan.rehearsal_recent_share, plan.rehearsal_recent_windows)
        items, types = self.model.items, self.model.types
        return self.rehearsal.sample(plan.rehearsal_windows, draw, items, types, plan.rehearsal_targets, among_)

    def forget(self, user: int) -> None:
        """Remove what is kept about one user, by key; counts and weights only fade."""
        self.model.forget(user)
        self.rehearsal.forget(user)
        self.quarantine.forget(user)

    def state(self) -> State:
        """Return everything that learning changed."""
        state = State(values={"batch": self.batch, "events": self.events})
        state.put("model", self.model.state())
        state.put("rehearsal", self.rehearsal.state())
        state.put("repeats", self.repeats.state())
        state.put("adaptation", self.adaptation.state())
        state.put("quarantine", self.quarantine.state())
        if self.champion is not None:
            state.put("champion", self.champion.state())
        return state

    def load(self, state: State) -> None:
        """Become what `state` holds."""
        values = state.values
        self.batch, self.events = int(values["batch"]), int(values["events"])
        self.model.load(state.take("model"))
        self.rehearsal.load(state.take("rehearsal"))
        self.repeats.load(state.take("repeats"))
        self.adaptation.load(state.take("adaptation"))
        self.quarantine.load(state.take("quarantine"))
        self.champion = None
        if "champion" in values:
            self.champion = Champion(self.model)
            self.champion.load(state.take("champion"))
