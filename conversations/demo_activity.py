"""Made-up people, sessions, runs and usage rows, to try the app and its monitor with.

Everything hangs on people whose address ends in MARKER and on configurations whose names say what
they are, and goes with them. What is made looks like what runs leave: messages in branches,
requests as the adapters build them, events, usage rows with costs by the prices.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet

from conversations import events
from conversations.errors import Failure
from conversations.events import RunEvent
from conversations.models import ChatSession, EventBatch, Message, Origin, Run, UsageLog
from conversations.outcomes import Metrics
from conversations.planning import Asked, Plan, Source, plan
from providers.events import Usage
from providers.models import Configuration
from providers.pricing import cost_usd
from providers.tokens import estimate

MARKER: Final = "@demo-activity.invalid"
NAMED: Final = " (made-up activity)"
SESSIONS_AT_A_TIME: Final = 25  # in one transaction: others write in between
ALONE: Final = 0.18  # of the runs, that belong to no session
LONGEST_SESSION: Final = 8  # turns

PEOPLE: Final = (
    "Ada Lovelace, Grace Hopper, Alan Turing, Barbara Liskov, Edsger Dijkstra, Radia Perlman, "
    "Donald Knuth, Margaret Hamilton, Dennis Ritchie, Katherine Johnson, Tim Berners-Lee, "
    "Frances Allen"
).split(", ")


@dataclass(frozen=True, slots=True)
class Model:
    """A configuration, and how it behaves: the middle of its times (s) and speeds (tokens/s), how
    often it is chosen, and how often it fails."""

    slug: str
    kind: str
    model: str
    base_url: str
    prices: tuple[str, str] | None  # of input and output; None is unknown
    first_chunk: float
    speed: float
    weight: int
    fails: float
    counts_tokens: bool = True


MODELS: Final = (
    Model(
        "demo-gpt-mini",
        "openai",
        "gpt-5-mini",
        "https://api.openai.com",
        ("0.25", "2"),
        0.6,
        95,
        34,
        0.03,
    ),
    Model(
        "demo-claude",
        "anthropic",
        "claude-sonnet-4-5",
        "https://api.anthropic.com",
        ("3", "15"),
        0.9,
        70,
        26,
        0.02,
    ),
    Model(
        "demo-openrouter-llama",
        "openrouter",
        "meta-llama/llama-4-maverick",
        "https://openrouter.ai/api",
        ("0.15", "0.6"),
        1.3,
        60,
        14,
        0.09,
    ),
    Model(
        "demo-qwen-local",
        "ollama",
        "qwen3:8b",
        "http://localhost:11434",
        ("0", "0"),
        2.2,
        28,
        16,
        0.05,
        False,
    ),
    Model(
        "demo-team-gateway",
        "local",
        "mistral-small",
        "http://gateway.example:8000",
        None,
        1.7,
        45,
        10,
        0.13,
    ),
)
ERRORS: Final = (
    ("RATE_LIMIT_EXCEEDED", 34, "takes no more requests now. Try again in a moment.", True),
    ("PROVIDER_OVERLOADED", 22, "is overloaded. Try again later.", True),
    ("TIMEOUT", 16, "did not answer in time. Try again.", True),
    ("STREAM_INTERRUPTED", 12, "broke off its answer. Try again.", True),
    ("CONTEXT_LENGTH_EXCEEDED", 6, "cannot take so long a conversation. Start a new chat.", False),
    ("PROVIDER_OFFLINE", 6, "cannot be reached. Try again later.", True),
    ("CONTENT_FILTERED", 3, "refuses to answer this. Ask in other words.", False),
)
TALK: Final = (
    (
        "How do I read a large CSV file in Python without running out of memory?",
        "Read it in pieces. With `csv` a file is read line by line, so that only one row is in "
        "memory:\n\n```python\nimport csv\n\nwith open('large.csv', newline='') as file:\n"
        "    for row in csv.DictReader(file):\n        handle(row)\n```\n\nFor column arithmetic, "
        "`pandas.read_csv(..., chunksize=100_000)` gives one frame at a time.",
    ),
    (
        "Explain the difference between a process and a thread to a beginner.",
        "A **process** is a running program with memory of its own. A **thread** is a line of work "
        "inside a process.\n\n| | process | thread |\n|---|---|---|\n| memory | own | shared |\n"
        "| starting | slower | faster |\n| a crash | hurts itself | takes the process along |",
    ),
    (
        "Write a polite reminder for an unpaid invoice.",
        "Dear Ms Winter,\n\nthis is a short reminder that invoice 2026-114 of 3 October is still "
        "open. Perhaps it was overlooked. Could you let us know when we may expect the payment?\n\n"
        "Kind regards",
    ),
    (
        "Which index does this query need? SELECT * FROM orders WHERE customer = ? ORDER BY day",
        "One on both columns, in this order:\n\n```sql\nCREATE INDEX orders_of_customer "
        "ON orders (customer, day);\n```\n\nThe first column finds the customer, the second is "
        "sorted already.",
    ),
    (
        "Plan a weekend in Lisbon with two children.",
        "1. **Saturday morning**: the Oceanarium, early, before the queues.\n2. **Afternoon**: the "
        "tram up to the castle, peacocks included.\n3. **Sunday**: the beach at Cascais, forty "
        "minutes by train.",
    ),
    (
        "Summarise what the CAP theorem says.",
        "A distributed store cannot be *consistent*, *available* and *tolerant of partitions* at "
        "once. As networks do fail, the choice is what to give up while they do.",
    ),
    (
        "Why does my regular expression match too much? <b>.*</b>",
        "`.*` is greedy: it takes as much as it can, up to the last `</b>` of the line. Make it "
        "lazy with `.*?`, and use a parser where it is HTML.",
    ),
    (
        "Draft a job advertisement for a nurse in a small clinic.",
        "**Nurse (80 to 100 %)** for a clinic with 24 beds. You like to know your patients by "
        "name; we offer rosters that are fixed six weeks ahead, and a team that stays.",
    ),
)
FURTHER: Final = (
    "Can you show an example?",
    "Make it shorter, please.",
    "What would you do differently in a larger team?",
    "Now in the form of a table.",
    "Are you sure? Explain the second point.",
    "Thank you. And what are the drawbacks?",
)


@dataclass(frozen=True, slots=True)
class Made:
    """How much there is of it."""

    people: int
    sessions: int
    runs: int

    def __str__(self) -> str:
        return f"{self.people:,} people, {self.sessions:,} sessions and {self.runs:,} runs"


# ---- what is there


def people() -> QuerySet[User]:
    return get_user_model().objects.filter(email__endswith=MARKER)


def made() -> Made:
    return Made(
        people().count(),
        ChatSession.objects.filter(user__in=people()).count(),
        Run.objects.filter(user__in=people()).count(),
    )


def is_used() -> bool:
    """Whether anything runs here that was not made up."""
    names = people().values("username")
    real = UsageLog.objects.exclude(user__in=people()).exclude(username__in=names)
    return real.exists() or Run.objects.filter(~Q(user__in=people()) | Q(user=None)).exists()


def remove() -> Made:
    """Takes away what `make` made, and nothing else."""
    gone = made()
    with transaction.atomic():
        UsageLog.objects.filter(user__in=people()).delete()
        people().delete()
        Configuration.objects.filter(name__endswith=NAMED).delete()
    return gone


# ---- what is made


@dataclass(slots=True)
class _Turn:
    """A run to be, and what it says."""

    id: UUID
    at: datetime
    origin: Origin
    prompt: str
    answer: str
    status: Run.Status
    failure: Failure | None
    prompt_tokens: int
    completion_tokens: int
    first_chunk: float | None
    seconds: float

    @property
    def ended_at(self) -> datetime:
        return self.at + timedelta(seconds=self.seconds)


@dataclass(slots=True)
class _Talk:
    """A session to be; one turn without a session where `is_alone`."""

    user: User
    model: Model
    turns: list[_Turn]
    is_alone: bool
    chat: ChatSession | None = None
    branch: list[Message] = field(default_factory=list)


def make(runs: int, days: int, seed: int, now: datetime, tell: Callable[[int], None]) -> Made:
    """Makes so many runs in the days up to `now`; the same ones for the same seed and moment.
    `tell` hears now and then how many there are."""
    dice = random.Random(seed)  # noqa: S311 - nothing here is secret
    users = _make_people()
    configurations = {model.slug: _make_configuration(model) for model in MODELS}
    talks = _talks(dice, users, runs, days, now)
    done = 0
    while portion := list(islice(talks, SESSIONS_AT_A_TIME)):
        with transaction.atomic():
            _store(portion, configurations)
        done += sum(len(talk.turns) for talk in portion)
        tell(done)
    return made()


def _make_people() -> list[User]:
    for name in PEOPLE:
        first, last = name.split(" ")
        word = f"demo-{first.lower()}"
        get_user_model().objects.get_or_create(
            username=word,
            defaults={
                "first_name": first,
                "last_name": last,
                "email": f"{first.lower()}{MARKER}",
                "password": make_password(None),
            },
        )
    return list(people().order_by("pk"))


def _make_configuration(model: Model) -> Configuration:
    """An inactive one, which is never used. One of that name that is there already stays."""
    price, output = model.prices or (None, None)
    Configuration.objects.get_or_create(
        slug=model.slug,
        defaults={
            "name": f"{model.model}{NAMED}",
            "kind": model.kind,
            "model": model.model,
            "base_url": model.base_url,
            "input_price": price and Decimal(price),
            "output_price": output and Decimal(output),
            "context_window": 128_000,
            "is_active": False,
        },
    )
    return Configuration.objects.get(slug=model.slug)  # read, so that it has its key's field


def _talks(
    dice: random.Random, users: Sequence[User], runs: int, days: int, now: datetime
) -> Iterator[_Talk]:
    # Few write much, and many a little.
    weights = [1 / (place + 1) for place in range(len(users))]
    left = runs
    while left > 0:
        user = dice.choices(users, weights)[0]
        model = dice.choices(MODELS, [model.weight for model in MODELS])[0]
        is_alone = dice.random() < ALONE
        most = 1 if is_alone else min(left, dice.choice((1, 1, 2, 2, 3, 4, 5, LONGEST_SESSION)))
        at = _moment(dice, days, now)
        question, answer = dice.choice(TALK)
        turns: list[_Turn] = []
        while len(turns) < most:
            origin = _origin(dice) if is_alone else Origin.CHAT
            turn = _turn(dice, model, at, origin, question, answer, len(turns))
            if turn.ended_at >= now and turns:
                break
            turns.append(turn)
            at = turn.ended_at + timedelta(seconds=min(dice.lognormvariate(4, 1), 1800))
            question = dice.choice(FURTHER)
        left -= len(turns)
        yield _Talk(user, model, turns, is_alone)


def _moment(dice: random.Random, days: int, now: datetime) -> datetime:
    """More in the working hours of working days, and a little more every day."""
    while True:
        back = days * (1 - dice.random() ** 0.8)
        moment = now - timedelta(days=back, minutes=10)
        weight = (1.0 if 8 <= moment.hour < 18 else 0.15) * (0.25 if moment.weekday() > 4 else 1)
        if dice.random() < weight:
            return moment


def _origin(dice: random.Random) -> Origin:
    kinds = (Origin.API, Origin.STREAM_TEST, Origin.REPLAY, Origin.COMMAND)
    return dice.choices(kinds, (70, 10, 8, 12))[0]


def _turn(
    dice: random.Random,
    model: Model,
    at: datetime,
    origin: Origin,
    prompt: str,
    answer: str,
    place: int,
) -> _Turn:
    status, failure = Run.Status.DONE, None
    # Bad hours: some days a provider is in trouble.
    trouble = 4 if (at.toordinal() * 7 + len(model.slug)) % 11 == 0 else 1
    luck = dice.random()
    if luck < model.fails * trouble:
        code, _, words, recoverable = dice.choices(ERRORS, [error[1] for error in ERRORS])[0]
        status = Run.Status.ERROR
        failure = Failure(code, f"{model.model} {words}", recoverable)
    elif luck > 0.995:
        status = Run.Status.INTERRUPTED
        failure = Failure("INTERRUPTED", "The server went away while it answered.", True)
    elif luck > 0.955:
        status = Run.Status.STOPPED
    is_cut = status != Run.Status.DONE
    has_text = status in (Run.Status.DONE, Run.Status.STOPPED, Run.Status.INTERRUPTED) or (
        failure is not None and failure.code == "STREAM_INTERRUPTED"
    )
    if is_cut:
        answer = answer[: dice.randrange(1, len(answer))] if has_text else ""
    first_chunk = model.first_chunk * dice.lognormvariate(0, 0.45)
    # Longer than the text that is kept, as models are.
    completion = int(estimate(answer) * dice.uniform(1, 6)) if answer else 0
    speed = model.speed * dice.lognormvariate(0, 0.2)
    waited = 30.0 if failure and failure.code == "TIMEOUT" else first_chunk
    return _Turn(
        id=UUID(int=dice.getrandbits(128), version=4),
        at=at,
        origin=origin,
        prompt=prompt,
        answer=answer,
        status=status,
        failure=failure,
        prompt_tokens=estimate(prompt) + place * 420 + dice.randrange(20, 160),
        completion_tokens=completion,
        first_chunk=first_chunk if answer else None,
        seconds=waited + completion / speed,
    )


# ---- how it is stored


def _store(talks: Sequence[_Talk], configurations: dict[str, Configuration]) -> None:
    chats = [talk for talk in talks if not talk.is_alone]
    for talk in chats:
        title = " ".join(talk.turns[0].prompt.split())[:60]
        talk.chat = ChatSession(user=talk.user, title=title)
        talk.chat.configuration = configurations[talk.model.slug]
    sessions = [talk.chat for talk in chats if talk.chat]
    ChatSession.objects.bulk_create(sessions)
    for talk in chats:
        if talk.chat:
            talk.chat.created_at = talk.turns[0].at
            talk.chat.last_activity_at = talk.turns[-1].ended_at
    # These columns say now when a row is made, whatever it has.
    ChatSession.objects.bulk_update(sessions, ["created_at", "last_activity_at"])
    for place in range(LONGEST_SESSION):
        there = [talk for talk in talks if place < len(talk.turns)]
        if there:
            _store_turns(there, place, configurations)


def _store_turns(
    talks: Sequence[_Talk], place: int, configurations: dict[str, Configuration]
) -> None:
    """The turns at this place of these talks; all messages before them are stored."""
    chats = [talk for talk in talks if talk.chat]
    questions = {id(talk): _question(talk, talk.turns[place]) for talk in chats}
    _create(Message, list(questions.values()), [talk.turns[place].at for talk in chats])
    answers = {
        id(talk): _answer(talk, talk.turns[place], questions[id(talk)])
        for talk in chats
        if talk.turns[place].answer
    }
    ends = [talk.turns[place].ended_at for talk in talks if id(talk) in answers]
    _create(Message, list(answers.values()), ends)
    runs, rows, batches = [], [], []
    for talk in talks:
        turn, configuration = talk.turns[place], configurations[talk.model.slug]
        question, answer = questions.get(id(talk)), answers.get(id(talk))
        asked = Asked(prompt=turn.prompt, source=Source(turn.origin))
        planned = plan(configuration, asked, talk.chat, question, talk.branch, turn.at)
        run = _run(talk, turn, configuration, planned, question, answer)
        row = _usage(talk, turn, run, configuration)
        runs.append(run)
        rows.append(row)
        batches.append(_events(turn, run, row, planned))
        talk.branch += [one for one in (question, answer) if one and one.status != "failed"]
    _create(Run, runs, [row.started_at for row in rows], "started_at")
    UsageLog.objects.bulk_create(rows)
    EventBatch.objects.bulk_create(batches)


def _create(
    model: Any, rows: Sequence[Any], moments: Sequence[datetime], column: str = "created_at"
) -> None:
    model.objects.bulk_create(rows)
    for row, moment in zip(rows, moments, strict=True):
        setattr(row, column, moment)
    model.objects.bulk_update(rows, [column])


def _question(talk: _Talk, turn: _Turn) -> Message:
    return Message(
        session=talk.chat,
        parent=talk.branch[-1] if talk.branch else None,
        role=Message.Role.USER,
        status=Message.Status.FAILED if turn.failure else Message.Status.COMPLETE,
        content=turn.prompt,
        tokens=estimate(turn.prompt),
    )


def _answer(talk: _Talk, turn: _Turn, question: Message) -> Message:
    stopped = turn.status == Run.Status.STOPPED
    whole = Message.Status.STOPPED if stopped else Message.Status.COMPLETE
    return Message(
        session=talk.chat,
        parent=question,
        role=Message.Role.ASSISTANT,
        status=Message.Status.FAILED if turn.failure else whole,
        content=turn.answer,
        tokens=estimate(turn.answer),
    )


def _run(
    talk: _Talk,
    turn: _Turn,
    configuration: Configuration,
    planned: Plan,
    question: Message | None,
    answer: Message | None,
) -> Run:
    return Run(
        id=turn.id,
        user=talk.user,
        session=talk.chat,
        configuration=configuration,
        user_message=question,
        assistant_message=answer,
        origin=turn.origin,
        configuration_slug=configuration.slug,
        provider=configuration.kind,
        model=configuration.model,
        input_tokens=planned.input_tokens,
        status=turn.status,
        error_code=turn.failure.code if turn.failure else "",
        error_message=turn.failure.message if turn.failure else "",
        is_recoverable=bool(turn.failure and turn.failure.recoverable),
        ended_at=turn.ended_at,
    )


def _usage(talk: _Talk, turn: _Turn, run: Run, configuration: Configuration) -> UsageLog:
    is_refused = turn.failure is not None and not turn.answer and turn.failure.code != "TIMEOUT"
    used = Usage() if is_refused else Usage(turn.prompt_tokens, turn.completion_tokens)
    is_estimated = not is_refused and (not talk.model.counts_tokens or turn.status != "done")
    prices = configuration.prices
    cost, source = cost_usd(used, prices, is_estimated=is_estimated)
    writing = turn.seconds - (turn.first_chunk or turn.seconds)
    return UsageLog(
        run=run,
        session_id=run.session_id,
        user=talk.user,
        username=talk.user.get_username(),
        origin=turn.origin,
        configuration=run.configuration_slug,
        provider=run.provider,
        model=run.model,
        status=turn.status,
        code=run.error_code,
        finish_reason=_finish_reason(turn) or "",
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        is_estimated=is_estimated,
        cost_usd=cost,
        cost_source=source,
        input_price=prices.input,
        cached_input_price=prices.cached_input,
        output_price=prices.output,
        time_to_first_chunk=turn.first_chunk,
        processing_time=turn.seconds,
        tokens_per_second=turn.completion_tokens / writing if writing > 0 else None,
        started_at=turn.at,
        ended_at=turn.ended_at,
    )


def _finish_reason(turn: _Turn) -> str | None:
    return {Run.Status.DONE: "stop", Run.Status.STOPPED: "stopped"}.get(turn.status)


def _events(turn: _Turn, run: Run, row: UsageLog, planned: Plan) -> EventBatch:
    # The plan has given the run an id of its own, which these events name.
    opening = [event.data.replace(str(planned.run_id), str(run.pk)) for event in planned.opening]
    texts = list(opening)
    if turn.answer:
        texts.append(events.chunk(turn.answer, row.completion_tokens or estimate(turn.answer)))
    if turn.failure:
        texts.append(
            events.error(
                turn.failure, assistant_message_id=run.assistant_message_id, text=turn.answer
            )
        )
    else:
        texts.append(
            events.done(
                assistant_message_id=run.assistant_message_id,
                full_response=turn.answer,
                finish_reason=_finish_reason(turn),
                provider_finish_reason="stop" if turn.status == Run.Status.DONE else None,
                stopped=turn.status == Run.Status.STOPPED,
                receipt=None,
                structured=None,
                attachments=[],
                metrics=_metrics(row).fields,
            )
        )
    numbered: list[RunEvent] = [
        events.numbered(number, data) for number, data in enumerate(texts, 1)
    ]
    return EventBatch(run=run, first=1, last=len(numbered), lines=events.to_lines(numbered))


def _metrics(row: UsageLog) -> Metrics:
    return Metrics(
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=None,
        cached_tokens=None,
        cost_usd=row.cost_usd,
        cost_source=row.cost_source,  # type: ignore[arg-type]  # a column knows only text
        estimated=row.is_estimated,
        processing_time=row.processing_time or 0,
        time_to_first_chunk=row.time_to_first_chunk,
        tokens_per_second=row.tokens_per_second,
    )
