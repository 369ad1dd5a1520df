"""The command line: `barque`. A module for each verb, and the modules that they share.

May import everything below it; nothing imports it. Read in this order: `failures` (exit codes and
the one line of an error), `main` and `verbs` (loaded when they are used), `settings`, `streams` and `node`
(one node), `progress` and `signals` (of long work), `reach` (how a verb finds nodes and secret), `status`
and `kv` (typical verbs), `dev_directory`, `dev_processes`, `dev` and `demo` (several nodes on one machine).

Never: waits without a deadline, signals a process unless `barque dev` started it, prints anything
but the JSON document to stdout with `-o json`.
"""
