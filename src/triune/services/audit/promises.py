"""What an instance's configuration allows it, of the steps that the probe inside tries."""

from __future__ import annotations

from triune.domain.isolation import Isolation
from triune.services.audit.knowledge import Step


def promised(step: Step, isolation: Isolation, user: int) -> bool | None:
    """Whether it may; None where that can't be told (it has a kernel of its own, or a fact is unknown).

    `user` is the id that the probe ran as inside: who is not root has no capabilities.
    """
    if isolation.own_kernel:
        return None
    answers = [_capable(step, isolation, user), _callable(step, isolation), _outside(step, isolation)]
    if step.guarded:
        answers.append(None if isolation.proc_guarded is None else not isolation.proc_guarded)
    if step.privileged:
        # Devices are a list of their own, and the privileged of some technologies keep it.
        answers.append(None if isolation.privileged or isolation.devices else False)
    if False in answers:
        return False
    return None if None in answers else True


def _capable(step: Step, isolation: Isolation, user: int) -> bool | None:
    if not step.needs:
        return True
    if user != 0:
        return False
    return None if isolation.capabilities is None else step.needs <= isolation.capabilities


def _callable(step: Step, isolation: Isolation) -> bool | None:
    if not step.call or isolation.filtered is False:
        return True
    return None if isolation.calls_blocked is None else step.call not in isolation.calls_blocked


def _outside(step: Step, isolation: Isolation) -> bool | None:
    if not step.initial:
        return True
    return None if isolation.user_namespace is None else not isolation.user_namespace
