"""Hands a model to CP-SAT, the constraint solver of Google's OR-Tools (Perron, Didier and Gay, 2023).

The solver runs with one worker and a fixed seed, and its effort is counted in its own deterministic time, so that with
the same version of it an outcome does not depend on the machine. It is imported at the first solve.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from itertools import groupby
from math import inf
from typing import Any

from constrained_dg.constraints.lowering import TRUE, Model, ModelError, Statement
from constrained_dg.constraints.running import TimeIsUpError, check_time, remaining

#: How long the caller's thread waits at a time, in seconds: it sees Ctrl-C and the end of its time in between.
_WAIT = 0.02
#: How long the solver may take to stop, in seconds.
_GRACE = 0.05


@dataclass(frozen=True)
class Outcome:
    """How a solve ended.

    Attributes:
        values: of every variable in the best solution, or None.
        proved: the solution is the best one; or, without a solution, none exists.
        bound: no solution has a higher objective; None where the solver knows no bound.
        work: deterministic time.
        branches: that the solver opened.
    """

    values: list[int] | None
    proved: bool
    bound: int | None
    work: float
    branches: int


def solve(
    model: Model,
    objective: Mapping[int, int],
    hint: Mapping[int, int],
    budget: float,
    on_solution: Callable[[list[int]], bool] = lambda solution: False,
    enumerate_all: bool = False,
) -> Outcome:
    """Find the solution of the highest objective.

    Args:
        objective: the weight of each literal that counts.
        hint: a value for variables, tried first.
        budget: deterministic time.
        on_solution: called with the values of each solution on the way; True ends the solve.
        enumerate_all: without an objective: one solution after the other.

    Raises:
        TimeIsUpError: the time limit around the call has run out before the solver began, or while it did not listen.
        ModelError: a statement is not valid.
    """
    from ortools.sat.python import cp_model

    built = cp_model.CpModel()
    _write(built.proto, model)
    offset = _maximize(built.proto, objective)
    hinted = sorted((variable, value) for variable, value in hint.items() if variable != TRUE)
    built.proto.solution_hint.vars.extend([variable for variable, _ in hinted])
    built.proto.solution_hint.values.extend([value for _, value in hinted])
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.num_workers = 1
    parameters.random_seed = 0
    parameters.max_deterministic_time = max(budget, 0.0)
    parameters.catch_sigint_signal = False
    # The default costs a second for a cycle through 256 nodes, most of the whole solve.
    parameters.symmetry_detection_deterministic_time_limit = 0.01
    parameters.enumerate_all_solutions = enumerate_all
    limit = remaining()
    check_time()
    if limit is not None:
        parameters.max_time_in_seconds = limit
    status = _run(solver, built, _listener(cp_model, on_solution), limit)
    if status is None:
        raise TimeIsUpError
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    if status == cp_model.MODEL_INVALID:
        raise ModelError(f"what the rules write is not valid: {built.validate()}")
    response = solver.response_proto
    return Outcome(
        list(response.solution) if found else None,
        status in (cp_model.OPTIMAL, cp_model.INFEASIBLE),
        None if not objective or status == cp_model.UNKNOWN else offset - round(response.best_objective_bound),
        response.deterministic_time,
        response.num_branches,
    )


def _run(solver: Any, built: Any, listener: Any, limit: float | None) -> Any:
    """Solve in another thread, so that Ctrl-C and the end of the time are obeyed at once.

    Some steps of the solver do not look at the clock for seconds. Then its thread is left to end by itself, unheard.
    Returns the status; None where the time was up.
    """
    results: list[Any] = []
    context, ended = copy_context(), threading.Event()

    def work() -> None:
        try:
            results.append(context.run(solver.solve, built, listener))
        except BaseException as error:
            results.append(error)
        ended.set()

    thread = threading.Thread(target=work)
    ends = inf if limit is None else time.monotonic() + limit
    thread.start()
    try:
        # Not `thread.join`: Ctrl-C inside of it would let Python end before the thread does, which aborts.
        while not ended.is_set() and time.monotonic() < ends + _GRACE:
            ended.wait(_WAIT)
            if time.monotonic() >= ends:
                solver.stop_search()
    finally:
        if not ended.is_set():
            listener.heard = False
            solver.stop_search()
    if not results:
        return None
    [result] = results
    for error in (result, listener.error):
        if isinstance(error, BaseException):
            raise error
    return result


def _listener(cp_model: Any, on_solution: Callable[[list[int]], bool]) -> Any:
    class Listener(cp_model.CpSolverSolutionCallback):
        heard = True
        error: BaseException | None = None

        def on_solution_callback(self) -> None:
            try:
                if not self.heard or on_solution(list(self.response_proto.solution)):
                    self.stop_search()
            except BaseException as error:  # nothing may be raised through the solver
                self.error = error
                self.stop_search()

    return Listener()


def value_of(solution: Sequence[int], literal: int) -> int:
    """The value of a literal in a solution."""
    return solution[literal] if literal >= 0 else 1 - solution[~literal]


def _write(proto: Any, model: Model) -> None:
    from ortools.sat.python.cp_model_helper import IntegerVariableProto

    # Equal neighbors are written at once, in a fifth of the time.
    for (low, high), equal in groupby(model.domains):
        check_time()
        variable = IntegerVariableProto()
        variable.domain.extend([low, high])
        proto.variables.extend([variable] * len(list(equal)))
    for each in model.statements:
        check_time()
        _state(proto.constraints.add(), each)


def _state(constraint: Any, each: Statement) -> None:
    if each.kind == "linear":
        linear = constraint.linear
        linear.vars.extend(each.literals)
        linear.coeffs.extend(each.weights)
        linear.domain.extend([each.low, each.high])
        if each.conditions:
            constraint.enforcement_literal.extend(each.conditions)
    elif each.kind == "circuit":
        half = len(each.literals)
        constraint.circuit.tails.extend(each.weights[:half])
        constraint.circuit.heads.extend(each.weights[half:])
        constraint.circuit.literals.extend(each.literals)
    else:
        kinds = {"clause": "bool_or", "at_most_one": "at_most_one", "exactly_one": "exactly_one"}
        getattr(constraint, kinds[each.kind]).literals.extend(each.literals)


def _maximize(proto: Any, objective: Mapping[int, int]) -> int:
    """Write the objective: the solver minimizes. Returns the part of it that is fixed."""
    offset = 0
    weights: dict[int, int] = {}
    for literal, weight in objective.items():
        if literal == TRUE:
            offset += weight
        elif literal >= 0:
            weights[literal] = weights.get(literal, 0) + weight
        elif literal != ~TRUE:
            offset += weight
            weights[~literal] = weights.get(~literal, 0) - weight
    if weights:
        proto.objective.vars.extend(list(weights))
        proto.objective.coeffs.extend([-weight for weight in weights.values()])
    return offset
