%% Fills clusters of three Ra nodes with commands, kills all nodes, and measures until they answer again.
%%
%% As bench/ra/barque_peer.erl it runs on a fourth Erlang node, uses the machine of `ra_bench`, and prints one
%% line of JSON. `bench/restart.py` starts it, and starts the nodes again that it kills.
-module(barque_restart).
-export([main/1]).

-define(TIMEOUT, 60000).
-define(WINDOW, 500).
-define(FILLERS, 16).

%% Arguments: nodes (comma-separated), commands in all, bytes of each, clusters.
main([Nodes0, Count0, Payload0, Clusters0]) ->
    Nodes = [list_to_atom(N) || N <- string:tokens(Nodes0, ",")],
    Clusters = list_to_integer(Clusters0),
    Names = [list_to_atom("bench" ++ integer_to_list(I)) || I <- lists:seq(1, Clusters)],
    Each = list_to_integer(Count0) div Clusters,
    Data = crypto:strong_rand_bytes(list_to_integer(Payload0)),
    [ready(N) || N <- Nodes],
    _ = in_parallel(fun(Name) ->
                            {ok, _, []} = ra:start_cluster(default, [config(Name, N, Nodes) || N <- Nodes])
                    end, Names),
    _ = in_parallel(fun(Name) -> fill(leader(Name, Nodes), Data, Each) end, Names),
    io:format("filled~n"),
    Pids = [rpc:call(N, os, getpid, []) || N <- Nodes],
    "" = os:cmd("kill -9 " ++ lists:join(" ", Pids)),
    Start = erlang:monotonic_time(microsecond),
    [io:format("restart ~s~n", [N]) || N <- Nodes],
    [ready(N) || N <- Nodes],
    _ = in_parallel(fun(Name) -> [restart(Name, N, 600) || N <- Nodes] end, Names),
    Times = in_parallel(fun(Name) ->
                                {ok, _, _} = read(Name, Nodes, 600),
                                erlang:monotonic_time(microsecond) - Start
                        end, Names),
    Memory = [resident(rpc:call(N, os, getpid, [])) || N <- Nodes],
    io:format("{\"commands\": ~b, \"first_us\": ~b, \"all_us\": ~b, \"memory\": [~s]}~n",
              [Each * Clusters, lists:min(Times), lists:max(Times),
               lists:join(",", [integer_to_list(M) || M <- Memory])]),
    halt(0).

ready(N) ->
    _ = until(fun() -> net_adm:ping(N) =:= pong end, 600),
    until(fun() -> rpc:call(N, ra_bench, prepare, []) =:= ok end, 600).

until(_, 0) -> exit(too_late);
until(Condition, Left) ->
    case Condition() of
        true -> ok;
        false -> timer:sleep(100), until(Condition, Left - 1)
    end.

config(Name, Node, Nodes) ->
    UId = ra:new_uid(atom_to_binary(Name)),
    #{id => {Name, Node},
      uid => UId,
      cluster_name => Name,
      metrics_key => Name,
      log_init_args => #{uid => UId},
      initial_members => [{Name, N} || N <- Nodes],
      machine => {module, ra_bench, #{}}}.

leader(Name, Nodes) -> leader(Name, Nodes, 600).

leader(_, _, 0) -> exit(no_leader);
leader(Name, Nodes, Left) ->
    Answers = [catch ra:members({Name, N}, 1000) || N <- Nodes],
    case [L || {ok, _, {_, At} = L} <- Answers, lists:member(At, Nodes)] of
        [L | _] -> L;
        [] -> timer:sleep(100), leader(Name, Nodes, Left - 1)
    end.

%% A window of commands, topped up as they are applied.
fill(Leader, Data, Count) ->
    send(Leader, Data, min(Count, ?WINDOW)),
    fill(Leader, Data, Count, min(Count, ?WINDOW), 0).

fill(_, _, Count, _, Answered) when Answered >= Count -> ok;
fill(Leader, Data, Count, Sent, Answered0) ->
    receive
        {ra_event, _, {applied, Applied}} ->
            Answered = Answered0 + length(Applied),
            Last = min(Count, Answered + ?WINDOW),
            send(Leader, Data, Last - Sent),
            fill(Leader, Data, Count, max(Sent, Last), Answered);
        {ra_event, _, Other} -> exit({unexpected, Other})
    after ?TIMEOUT -> exit({no_answer, Sent, Answered0})
    end.

send(_, _, Count) when Count =< 0 -> ok;
send(Leader, Data, Count) ->
    ok = ra:pipeline_command(Leader, {noop, Data}, Count, normal),
    send(Leader, Data, Count - 1).

restart(_, _, 0) -> exit(not_restarted);
restart(Name, Node, Left) ->
    case ra:restart_server(default, {Name, Node}) of
        ok -> ok;
        {error, {already_started, _}} -> ok;
        _ -> timer:sleep(50), restart(Name, Node, Left - 1)
    end.

read(_, _, 0) -> exit(no_read);
read(Name, Nodes, Left) ->
    case catch ra:consistent_query([{Name, N} || N <- Nodes], fun erlang:is_atom/1, 1000) of
        {ok, _, _} = Answer -> Answer;
        _ -> timer:sleep(20), read(Name, Nodes, Left - 1)
    end.

%% Some at a time, in processes of their own; the results in order.
in_parallel(_, []) -> [];
in_parallel(Function, Items) ->
    {Now, Later} = lists:split(min(?FILLERS, length(Items)), Items),
    Workers = [spawn_monitor(fun() -> exit({result, Function(Item)}) end) || Item <- Now],
    Results = [receive
                   {'DOWN', _, process, Worker, {result, Result}} -> Result;
                   {'DOWN', _, process, Worker, Why} -> exit({worker, Why})
               end || {Worker, _} <- Workers],
    Results ++ in_parallel(Function, Later).

resident(Pid) ->
    {ok, Statm} = file:read_file("/proc/" ++ Pid ++ "/statm"),
    [_, Pages | _] = binary:split(Statm, <<" ">>, [global]),
    binary_to_integer(Pages) * 4096.
