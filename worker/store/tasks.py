"""Operators' programming tasks."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from changeover.models.reasons import Reason
from changeover.models.states import TASK_TRANSITIONS, TaskState, check_transition
from changeover.models.tables import TaskRow
from changeover.models.task import Task
from changeover.worker.store.audit import Audit
from changeover.worker.store.session import Session, columns_of


class Tasks:
    """Tasks, by id."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, task: Task) -> None:
        """Queue a task."""
        self.session.connection.execute(insert(TaskRow).values(**columns_of(task)))
        Audit(self.session).add(
            task.created_at,
            task.created_by,
            "task.queued",
            task.id,
            function=task.function,
            device=task.device,
            host=task.host,
            count=task.count,
        )

    def get(self, task_id: str) -> Task | None:
        """The task of that id."""
        row = self.session.row(select(TaskRow.__table__).where(TaskRow.id == task_id))
        return None if row is None else Task(**row)

    def all(self, *, queued_only: bool = False, limit: int = 1000) -> list[Task]:
        """Tasks, most urgent first, then oldest."""
        statement = select(TaskRow.__table__).order_by(TaskRow.priority.desc(), TaskRow.created_at)
        if queued_only:
            statement = statement.where(TaskRow.state == TaskState.QUEUED)
        return [Task(**row) for row in self.session.rows(statement.limit(limit))]

    def move(self, task: Task, state: TaskState, reason: Reason, now: float, by: str) -> bool:
        """Change a task's state; ``False`` if somebody else did meanwhile."""
        check_transition(TASK_TRANSITIONS, task.state, state)
        done = self.session.connection.execute(
            update(TaskRow)
            .where(TaskRow.id == task.id, TaskRow.state == task.state)
            .values(
                state=state,
                reason=reason,
                finished_at=None if state is TaskState.QUEUED else now,
            )
        )
        if done.rowcount == 1 and state is not task.state:
            Audit(self.session).add(now, by, f"task.{state}", task.id, reason=reason.as_json())
        return bool(done.rowcount == 1)

    def fail(self, task_id: str, reason: Reason, now: float) -> None:
        """A worker found that the task cannot be done, if nobody has ended it yet."""
        task = self.get(task_id)
        if task is not None and task.state is TaskState.QUEUED:
            self.move(task, TaskState.FAILED, reason, now, "worker")

    def count_done(self, task_id: str, more: int) -> None:
        """``more`` devices of the task offer its function by now."""
        self.session.connection.execute(
            update(TaskRow).where(TaskRow.id == task_id).values(done=TaskRow.done + more)
        )
