"""GenEval 2's icon edition: questions about icons, answered exactly, from detections.

Answered by yes or no, the geometric mean is 1 where all answers are right and 0 elsewhere, so the score is the share of
images that are right in every atom; ``am`` is the mean share of right answers, and ``soft_am`` and ``soft_gm`` take
detection scores as probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.geneval2 import atoms, icon_cases, scores
from evals.geneval2.options import Rules
from evals.geneval2.scores import Outcome
from evals.metrics import layout
from evals.suite import Case, Context, Detection, Drawn, Scored, Suite, Tools, UserError, plans
from evals.suite.objects import by_class, from_log
from evals.suite.tables import load_reference, reference_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table


class IconEdition(Suite[Rules]):
    """The benchmark."""

    name = "geneval2"
    title = "GenEval 2"
    options = Rules
    images_per_prompt = 1
    detector = "icon-fine"

    def cases(self, options: Rules, context: Context) -> list[Case]:
        """The icon edition's prompts."""
        return list(icon_cases.cases())

    def classes(self, case: Case) -> frozenset[str]:
        """The classes of a prompt."""
        return frozenset(item["class"] for item in case.metadata["include"])

    def needs_embedder(self, cases: Sequence[Case]) -> bool:
        """Whether any case names a colour, which a CLIP must see."""
        return any("color" in item for case in cases for item in case.metadata["include"])

    def prepare(self, tools: Tools, options: Rules) -> Tools:
        """Refuses a threshold below what the detector returns."""
        least = tools.detector.min_score
        if least > options.threshold:
            raise UserError(f"--threshold {options.threshold} is below {least}, the least of {tools.detector.name}")
        return tools

    def observe(self, batch: Sequence[Drawn], tools: Tools, options: Rules) -> list[dict[str, Any]]:
        """Detect, name colours, and where an atom is right in the plan alone, look at the plan's exact drawing."""

        def look(images: Sequence[Drawn]) -> list[dict[str, Any]]:
            return plans.look(images, tools, _to_color)

        def in_doubt(case: Case, seen: Mapping[str, Any]) -> bool:
            pairs = zip(_answers(case, plans.planned(seen), options), _seen(case, seen, options), strict=True)
            return any(plan.right and not image.right for plan, image in pairs)

        observations = look(batch)
        plans.add_plans(batch, observations, tools, look, in_doubt)
        return observations

    def score(self, case: Case, observation: Mapping[str, Any], options: Rules) -> Outcome:
        """The answer to each question, and where wrong ones went wrong if the model had a plan."""
        answers = _seen(case, observation, options)
        kept = [one for one in from_log(observation["detections"]) if one.score > options.threshold]
        wanted = self.classes(case)
        of_plan: dict[str, Any] = {}
        if observation["plan"] is not None:
            planned, exact = plans.planned(observation), plans.exactly_drawn(observation)
            plan_answers = _answers(case, planned, options)
            exact_answers = None if exact is None else _answers(case, exact, options)
            of_plan = {
                "plan_correct": all(one.right for one in plan_answers),
                "oracle_correct": None if exact_answers is None else all(one.right for one in exact_answers),
                "fit": layout.fit(planned, kept, observation["width"], observation["height"]),
                "in_plan": plan_answers,
                "in_exact": exact_answers,
            }
        probabilities = [one.probability for one in answers]
        return Outcome(
            correct=all(one.right for one in answers),
            reason="\n".join(one.reason for one in answers if one.reason),
            kept=by_class(one for one in kept if one.name in wanted),
            values={
                "am": atoms.arithmetic([float(one.right) for one in answers]),
                "soft_am": atoms.arithmetic(probabilities),
                "soft_gm": atoms.geometric(probabilities),
            },
            answers=answers,
            **of_plan,
        )

    def result(self, scored: Scored, filename: str) -> dict[str, Any]:
        """The line of results.jsonl, with the answers in the order of the questions."""
        return {**super().result(scored, filename), **scores.as_line(scored.score)}

    def summarize(
        self,
        cases: Sequence[Case],
        scored: Sequence[Scored],
        failures: Sequence[Mapping[str, Any]],
        options: Rules,
        context: Context,
    ) -> dict[str, Any]:
        """``scores.json``: by number of atoms and overall, by skill, with faults and layouts."""
        known = load_reference(self.name, context.detector, options.rules())
        return {
            "suite": self.name,
            "version": self.version,
            "title": f"{self.title}, icon edition",
            **context.describe(),
            "options": options.rules(),
            "reference": reference_of(known, [case.tag for case in cases]),
            **scores.summarize(cases, scored, failures, context.images_per_prompt),
            "faults": {one.key: one.score.fault for one in scored if one.score.fault},
        }

    def tables(self, found: Mapping[str, Any]) -> list[Table]:
        """Scores by number of atoms and by skill, faults, and how drawings keep to their plans."""
        return scores.tables(found)


def _to_color(case: Case, detections: Sequence[Detection]) -> list[Detection]:
    """The detections of classes whose colour is asked for."""
    colored = {item["class"] for item in case.metadata["include"] if "color" in item}
    return [one for one in detections if one.name in colored]


def _answers(case: Case, detections: Sequence[Detection], options: Rules) -> tuple[atoms.Answer, ...]:
    return atoms.answers(case.metadata, detections, options.threshold, options.position_threshold)


def _seen(case: Case, observation: Mapping[str, Any], options: Rules) -> tuple[atoms.Answer, ...]:
    return _answers(case, from_log(observation["detections"]), options)
