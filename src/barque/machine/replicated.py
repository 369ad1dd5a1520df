"""A machine from a class: its fields are the state, its `@command` and `@query` methods the contract.

::

    class Counter(barque.Replicated):
        value: int = 0

        @barque.command
        def add(self, by: int = 1) -> int:
            self.value += by
            return self.value

        @barque.query
        def get(self) -> int:
            return self.value

`await client.cluster("counter").object(Counter).call(Counter.add, 5)` commits one. The class is a
`msgspec.Struct`: the annotated fields are what a snapshot holds, so their types are those that msgspec can
encode. What a machine must obey (`barque.machine.machine`) holds for the methods, too: no clock, no random
numbers of its own, no input or output.

A command travels as the array `[method, argument, …]`. Its answer is the map `{"value": …}`, or
`{"failed": text}` for a method that raised `CommandFailed` or an error about a value (`FAILURES`). Such a
command is committed like any other: what the method changed before it raised stays changed, on all members
alike. Any other exception is a bug, and stops the member as that of any machine does.
"""

import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cache, reduce
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints, overload

import msgspec

from barque.errors import CommandFailed, ConfigurationError
from barque.machine.effects import LATER, MachineEffect, ReleaseCursor, Reply
from barque.machine.machine import Builtin, CommandMeta, Machine, MachineVersion, Result

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
Method = TypeVar("Method", bound="_Method[Any, Any]")

FAILURES = (CommandFailed, ArithmeticError, LookupError, TypeError, ValueError)
"""What a method may raise: the caller's answer. Anything else stops the member."""
RELEASE_INTERVAL = 128
"""A snapshot is suggested after so many entries; the log decides when one is due."""


class Effects(list[MachineEffect]):
    """Give a command a parameter of this type to ask for effects: `effects.append(Timer("expire", 500))`."""


class _Method(Generic[P, R]):
    """A method that the log, or a read, calls. On an object it is the plain method; on the class, this."""

    def __init__(self, function: Callable[Concatenate[Any, P], R]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    @overload
    def __get__(self: Method, instance: None, owner: type) -> Method: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.function.__get__(instance, owner)

    def describe(self) -> None:
        """Read the signature, once the module that defines it is complete."""
        hints = get_type_hints(self.function, include_extras=True)
        self.reply_type = hints.get("return", Any)
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        self.wants_meta = _take(parameters, hints, CommandMeta)
        self.wants_effects = _take(parameters, hints, Effects)
        fields: list[Any] = []
        for parameter in parameters:
            kind = hints.get(parameter.name, Any)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{self.name}: *{parameter.name} cannot be committed; name each argument")
            if kind in (CommandMeta, Effects):
                raise TypeError(f"{self.name}: {parameter.name} comes first: (self, meta, effects, …)")
            has_default = parameter.default is not parameter.empty
            fields.append(
                (parameter.name, kind, parameter.default) if has_default else (parameter.name, kind)
            )
        self.arguments = msgspec.defstruct(
            self.name, fields, frozen=True, array_like=True, forbid_unknown_fields=True, tag=self.name
        )

    def call(self, state: Any, value: Any, *context: Any) -> R:
        """Call it with the arguments that `value` holds."""
        given = {name: getattr(value, name) for name in value.__struct_fields__}
        return self.function(state, *context, **given)

    def encoded(self, *args: Any, **kwargs: Any) -> Any:
        """The value that travels, as the members will see it.

        Raises `TypeError`, or another error of the encoder, for arguments that the method does not take.
        """
        value = self.arguments(*args, **kwargs)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=self.arguments)


class Command(_Method[P, R]):
    """A method that `@command` marks."""


class Query(_Method[P, R]):
    """A method that `@query` marks."""


@overload
def command(function: Callable[Concatenate[Any, CommandMeta, Effects, P], R]) -> Command[P, R]: ...
@overload
def command(function: Callable[Concatenate[Any, CommandMeta, P], R]) -> Command[P, R]: ...
@overload
def command(function: Callable[Concatenate[Any, Effects, P], R]) -> Command[P, R]: ...
@overload
def command(function: Callable[Concatenate[Any, P], R]) -> Command[P, R]: ...
def command(function: Any) -> Command[Any, Any]:
    """Mark a method of a `Replicated` class that changes the state: each call is an entry of the log.

    Its parameters have types that msgspec can decode; a call with others is refused (`InvalidCommand`). If
    the first is a `CommandMeta` it gets the entry's place and time; if the next, or the first, is `Effects`,
    it collects effects. Callers do not give these two. A method that returns `LATER` is answered later, by
    the effect `Reply`.
    """
    return Command(function)


def query(function: Callable[Concatenate[Any, P], R]) -> Query[P, R]:
    """Mark a method of a `Replicated` class that reads: it must not change anything."""
    return Query(function)


class Replicated(msgspec.Struct):
    """The base of a class that Barque replicates (see this module). Its arguments are the cluster's.

    Raise `version` with each change of what commands do, and name the class before in `previous`: the
    cluster moves on when its members have the new one (VER-01), and `upgraded` makes the new state.
    """

    version: ClassVar[int] = 0
    previous: ClassVar["type[Replicated] | None"] = None

    def on_event(self, event: Builtin, meta: CommandMeta, effects: Effects) -> None:
        """A built-in command was committed: `Timeout`, `Down`, `NodeUp`, `NodeDown` or `MachineVersion`."""

    def on_state_enter(self, raft_state: str) -> Sequence[MachineEffect]:
        """This member entered a Raft state; a new leader sets its timers again (MAC-05). Changes nothing."""
        return ()

    def facts(self) -> dict[str, Any]:
        """Facts for people, for `status` (MAC-07)."""
        return {}

    @classmethod
    def upgraded(cls, old: Any) -> "Replicated":
        """The state of this version from that of the version before: fields of the same name stay."""
        fields = msgspec.structs.asdict(old)
        known = {name: value for name, value in fields.items() if name in cls.__struct_fields__}
        return cls(**known)


class ReplicatedMachine(Machine[Replicated]):
    """The machine of a `Replicated` class."""

    kind: ClassVar[type[Replicated]]
    commands: ClassVar[MappingProxyType[type, Command[Any, Any]]]
    queries: ClassVar[MappingProxyType[type, Query[Any, Any]]]
    older: ClassVar["Machine[Replicated] | None"] = None

    def init(self, args: dict[str, Any]) -> Replicated:
        """The object, made from the cluster's arguments."""
        return msgspec.convert(args, self.kind)

    def apply(self, meta: CommandMeta, command: Any, state: Replicated) -> Result[Replicated]:
        """Call the method that the command names."""
        effects = Effects()
        if isinstance(command, Builtin):
            if isinstance(command, MachineVersion) and type(state) is not self.kind:
                state = self.kind.upgraded(state)
            state.on_event(command, meta, effects)
            return state, None, _with_values(effects)
        method = self.commands[type(command)]
        context = (*((meta,) if method.wants_meta else ()), *((effects,) if method.wants_effects else ()))
        reply = _answer(method, state, command, *context)
        if not meta.index % RELEASE_INTERVAL:
            effects.append(ReleaseCursor(meta.index, state))
        return (state, reply, _with_values(effects)) if effects else (state, reply)

    def query(self, query: Any, state: Replicated) -> Any:
        """Call the method that the query names."""
        return _answer(self.queries[type(query)], state, query)

    def state_enter(self, raft_state: str, state: Replicated) -> Sequence[MachineEffect]:
        """See `Replicated.on_state_enter`."""
        return state.on_state_enter(raft_state)

    def overview(self, state: Replicated) -> dict[str, Any]:
        """See `Replicated.facts`."""
        return state.facts()

    def which_module(self, version: int) -> Machine[Replicated]:
        """The newest class that is not newer than `version`."""
        if version >= self.version or self.older is None:
            return self
        return self.older.which_module(version)

    def restore(self, pieces: Iterator[bytes], args: dict[str, Any]) -> Replicated:
        """The object that `capture` has encoded."""
        return msgspec.msgpack.decode(b"".join(pieces), type=self.kind)


@cache
def machine_of(kind: type[Replicated]) -> ReplicatedMachine:
    """The machine of a `Replicated` class.

    Raises `ConfigurationError` for a class without commands, or with a signature that cannot travel.
    """
    methods: dict[str, _Method[Any, Any]] = {}
    for owner in reversed(kind.__mro__):
        methods |= {name: value for name, value in vars(owner).items() if isinstance(value, _Method)}
    try:
        for method in methods.values():
            method.describe()
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{kind.__qualname__}: {error}") from error
    shadowed = [f.name for f in msgspec.structs.fields(kind) if isinstance(f.default, _Method)]
    if shadowed:
        raise ConfigurationError(f"{kind.__qualname__}: {shadowed[0]!r} is a field and a method; rename one")
    commands = {m.arguments: m for m in methods.values() if isinstance(m, Command)}
    queries = {m.arguments: m for m in methods.values() if isinstance(m, Query)}
    if not commands:
        raise ConfigurationError(f"{kind.__qualname__} has no method with @barque.command")
    contents = {
        "__doc__": kind.__doc__,
        "kind": kind,
        "version": kind.version,
        "commands": MappingProxyType(commands),
        "queries": MappingProxyType(queries),
        "command_type": reduce(operator.or_, commands),
        "query_type": reduce(operator.or_, queries) if queries else Any,
        "older": None if kind.previous is None else machine_of(kind.previous),
    }
    made: ReplicatedMachine = type(kind.__name__, (ReplicatedMachine,), contents)()
    return made


def _take(parameters: list[inspect.Parameter], hints: dict[str, Any], kind: type) -> bool:
    """Whether the next parameter is of this kind; it is taken from the list then."""
    wanted = bool(parameters) and hints.get(parameters[0].name) is kind
    if wanted:
        del parameters[0]
    return wanted


def _with_values(effects: Effects) -> list[MachineEffect]:
    """Give later replies the form that `_answer` gives all others."""
    return [Reply(e.to, {"value": e.body}, e.by) if type(e) is Reply else e for e in effects]


def _answer(method: _Method[Any, Any], state: Replicated, value: Any, *context: Any) -> Any:
    """The reply of a method, or why it failed; `LATER` if it comes later."""
    try:
        reply = method.call(state, value, *context)
        return reply if reply is LATER else {"value": reply}
    except CommandFailed as error:
        return {"failed": str(error)}
    except FAILURES as error:
        return {"failed": f"{type(error).__name__}: {error}"}
