%% Drives three Ra nodes, with the machine of Ra's own benchmark (`ra_bench`).
%%
%% It runs on a fourth Erlang node, which is no member. Loads run where `Where` says: `inside`,
%% in the leader's Erlang node, as in `ra_bench`; `outside`, in this one. The result is one
%% line of JSON, made by hand, for bench/peers.py.
-module(barque_peer).
-export([main/1, caller/5, pipeliner/5, together/3]).

-define(NAME, bench).
-define(PIPELINE_CLIENTS, 5).
-define(WINDOW, 500).
-define(CALLERS, 64).
-define(FAILOVER_CALLERS, 16).
-define(MARK_EVERY, 32).
-define(TIMEOUT, 30000).

%% Arguments: nodes (comma-separated), row, seconds, payload, inside|outside, kills. A line
%% `restart NODE` asks whoever called to start a node that was killed.
main([Nodes0, Row, Seconds0, Payload0, Where0, Kills0]) ->
    Nodes = [list_to_atom(N) || N <- string:tokens(Nodes0, ",")],
    Seconds = list_to_float(Seconds0),
    Data = crypto:strong_rand_bytes(list_to_integer(Payload0)),
    [await_node(N, 100) || N <- Nodes],
    [prepare(N, 100) || N <- Nodes],
    {ok, _, []} = ra:start_cluster(default, [config(N, Nodes) || N <- Nodes]),
    Leader = leader(Nodes),
    {ok, _, _} = ra:process_command(Leader, {noop, Data}, ?TIMEOUT),
    case Row of
        "failover" ->
            Times = failover(Nodes, Data, list_to_integer(Kills0)),
            print(length(Times), 0.0, lists:sort(Times), [], []);
        _ ->
            {_, LeaderNode} = Leader,
            At = case Where0 of "inside" -> LeaderNode; "outside" -> node() end,
            _ = load(At, Row, Leader, Data, min(1.0, Seconds / 4)),
            Before = cpu(Nodes),
            Mine = cpu([node()]),
            {Count, Elapsed, Latencies} = load(At, Row, Leader, Data, Seconds),
            print(Count, Elapsed, lists:sort(Latencies), cpu(Nodes) - Before, cpu([node()]) - Mine)
    end,
    halt(0).

await_node(N, 0) -> exit({unreachable, N});
await_node(N, Left) ->
    case net_adm:ping(N) of
        pong -> ok;
        pang -> timer:sleep(100), await_node(N, Left - 1)
    end.

config(Node, Nodes) ->
    UId = ra:new_uid(atom_to_binary(?NAME)),
    #{id => {?NAME, Node},
      uid => UId,
      cluster_name => ?NAME,
      metrics_key => ?NAME,
      log_init_args => #{uid => UId},
      initial_members => [{?NAME, N} || N <- Nodes],
      machine => {module, ra_bench, #{}}}.

leader(Nodes) -> leader(Nodes, 300).

leader(_, 0) -> exit(no_leader);
leader(Nodes, Left) ->
    Answers = [catch ra:members({?NAME, N}, 1000) || N <- Nodes],
    case [L || {ok, _, {_, At} = L} <- Answers, lists:member(At, Nodes)] of
        [L | _] -> L;
        [] -> timer:sleep(100), leader(Nodes, Left - 1)
    end.

%% Processor time in microseconds, of the emulators as the system counts it.
cpu(Nodes) ->
    lists:sum([begin
                   Pid = rpc:call(N, os, getpid, []),
                   {ok, Stat} = file:read_file("/proc/" ++ Pid ++ "/stat"),
                   [_, Rest] = binary:split(Stat, <<") ">>),
                   Fields = binary:split(Rest, <<" ">>, [global]),
                   (binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields)))
                       * 10000
               end || N <- Nodes]).

%% --- loads -----------------------------------------------------------------------------

load(At, Row, Leader, Data, Seconds) ->
    Result = rpc:call(At, ?MODULE, together, [workers(Row), {Row, Leader, Data}, Seconds]),
    {_, _, _} = Result.

workers("pipeline" ++ _) -> {pipeliner, ?PIPELINE_CLIENTS};
workers("sequential") -> {caller, 1};
workers("concurrent") -> {caller, ?CALLERS};
workers("read") -> {caller, 1};
workers("reads") -> {caller, ?CALLERS}.

%% Run so many workers at once; returns {answered, seconds, latencies in microseconds}.
together({Function, Count}, {Row, Leader, Data}, Seconds) ->
    Start = now_us(),
    Until = Start + round(Seconds * 1000000),
    Workers = [element(1, spawn_monitor(?MODULE, Function, [self(), Row, Leader, Data, Until]))
               || _ <- lists:seq(1, Count)],
    Parts = [receive
                 {W, Answered, Latencies} -> {Answered, Latencies};
                 {'DOWN', _, process, W, Why} when Why =/= normal -> exit({worker, Why})
             end || W <- Workers],
    {lists:sum([N || {N, _} <- Parts]), (now_us() - Start) / 1000000, lists:append([L || {_, L} <- Parts])}.

now_us() -> erlang:monotonic_time(microsecond).

caller(Parent, Row, Leader, Data, Until) ->
    Parent ! caller_loop(Row, Leader, Data, Until, now_us(), 0, []).

caller_loop(_, _, _, Until, Now, Count, Latencies) when Now >= Until ->
    {self(), Count, Latencies};
caller_loop(Row, Leader, Data, Until, Now, Count, Latencies) ->
    {ok, _, _} = ask(Row, Leader, Data),
    Then = now_us(),
    caller_loop(Row, Leader, Data, Until, Then, Count + 1, [Then - Now | Latencies]).

ask(Row, Leader, _) when Row =:= "read"; Row =:= "reads" ->
    ra:consistent_query(Leader, fun erlang:is_atom/1, ?TIMEOUT);
ask(_, Leader, Data) ->
    ra:process_command(Leader, {noop, Data}, ?TIMEOUT).

%% As `ra_bench`: a window of commands, of low priority unless the row says otherwise, topped up as they are applied.
pipeliner(Parent, Row, Leader, Data, Until) ->
    Command = {{noop, Data}, case Row of "pipeline" -> low; _ -> normal end},
    Marks = send(Leader, Command, 0, ?WINDOW, queue:new()),
    Parent ! pipeline_loop(Leader, Command, Until, ?WINDOW, 0, Marks, []).

pipeline_loop(_, _, _, Sent, Sent, _, Latencies) ->
    {self(), Sent, Latencies};
pipeline_loop(Leader, Command, Until, Sent, Answered0, Marks0, Latencies0) ->
    receive
        {ra_event, _, {applied, Applied}} ->
            Answered = Answered0 + length(Applied),
            Now = now_us(),
            {Marks1, Latencies} = take_marks(Answered, Now, Marks0, Latencies0),
            Last = case Now < Until of true -> Answered + ?WINDOW; false -> Sent end,
            Marks = send(Leader, Command, Sent, Last, Marks1),
            pipeline_loop(Leader, Command, Until, Last, Answered, Marks, Latencies);
        {ra_event, _, Other} ->
            exit({unexpected, Other})
    after ?TIMEOUT ->
            exit({no_answer, Sent, Answered0})
    end.

send(_, _, From, To, Marks) when From >= To -> Marks;
send(Leader, {Data, Priority} = Command, From, To, Marks) ->
    ok = ra:pipeline_command(Leader, Data, From, Priority),
    case From rem ?MARK_EVERY of
        0 -> send(Leader, Command, From + 1, To, queue:in({From, now_us()}, Marks));
        _ -> send(Leader, Command, From + 1, To, Marks)
    end.

take_marks(Answered, Now, Marks, Latencies) ->
    case queue:peek(Marks) of
        {value, {Number, At}} when Number < Answered ->
            take_marks(Answered, Now, queue:drop(Marks), [Now - At | Latencies]);
        _ -> {Marks, Latencies}
    end.

%% --- failover --------------------------------------------------------------------------

%% Clients are here, on a node that is not killed. Time from the kill to the first answer to a
%% command that was sent after it, to any member that is left.
failover(_, _, 0) -> [];
failover(Nodes, Data, Kills) ->
    {_, Victim} = leader(Nodes),
    Load = [spawn(fun() -> careless(Nodes, Data) end) || _ <- lists:seq(1, ?FAILOVER_CALLERS)],
    timer:sleep(1000),
    Pid = rpc:call(Victim, os, getpid, []),
    "" = os:cmd("kill -9 " ++ Pid),
    Start = now_us(),
    Self = self(),
    Left = lists:delete(Victim, Nodes),
    Prober = spawn(fun() -> attempt_often(Self, Left, Data) end),
    Took = receive {acknowledged, At} -> At - Start after ?TIMEOUT -> exit(no_failover) end,
    [exit(P, kill) || P <- [Prober | Load]],
    io:format("restart ~s~n", [Victim]),
    await_node(Victim, 300),
    prepare(Victim, 100),
    ok = restart(Victim, 100),
    timer:sleep(2000),
    flush(),
    [Took | failover(Nodes, Data, Kills - 1)].

prepare(_, 0) -> exit(not_prepared);
prepare(Node, Left) ->
    case rpc:call(Node, ra_bench, prepare, []) of
        ok -> ok;
        _ -> timer:sleep(100), prepare(Node, Left - 1)
    end.

restart(_, 0) -> exit(not_restarted);
restart(Node, Left) ->
    case ra:restart_server(default, {?NAME, Node}) of
        ok -> ok;
        {error, {already_started, _}} -> ok;
        _ -> timer:sleep(100), restart(Node, Left - 1)
    end.

careless(Nodes, Data) ->
    _ = (catch ra:process_command([{?NAME, N} || N <- Nodes], {noop, Data}, 1000)),
    careless(Nodes, Data).

%% A new attempt every 2 ms, none of which waits for another.
attempt_often(Parent, Nodes, Data) ->
    Ids = [{?NAME, N} || N <- Nodes],
    _ = spawn(fun() ->
                      case catch ra:process_command(Ids, {noop, Data}, 2000) of
                          {ok, _, _} -> Parent ! {acknowledged, now_us()};
                          _ -> no
                      end
              end),
    timer:sleep(2),
    attempt_often(Parent, Nodes, Data).

flush() -> receive {acknowledged, _} -> flush() after 0 -> ok end.

%% --- the result ------------------------------------------------------------------------

print(Count, Seconds, Latencies, Nodes, Client) ->
    Json = io_lib:format("{\"commands\": ~b, \"seconds\": ~.6f, \"latencies_us\": [~s], "
                         "\"nodes_cpu_us\": ~s, \"client_cpu_us\": ~s}~n",
                         [Count, Seconds, lists:join(",", [integer_to_list(L) || L <- thin(Latencies)]),
                          number(Nodes), number(Client)]),
    io:put_chars(Json).

number(N) when is_integer(N) -> integer_to_list(N);
number(_) -> "null".

%% At most some thousand of the latencies, evenly: they are sorted, so the quantiles stay.
thin(Latencies) when length(Latencies) =< 4000 -> Latencies;
thin(Latencies) ->
    T = list_to_tuple(Latencies),
    [element(1 + I * (tuple_size(T) - 1) div 3999, T) || I <- lists:seq(0, 3999)].
