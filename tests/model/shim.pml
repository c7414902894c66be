/*
 * A shim, its journal, its container's processes and the broker's log (shim/README.md).
 *
 * Two processes: init (0) and one that was added (1), in a pid namespace of their own:
 * init's death ends the other, and the kernel tells of init's end last. The shim may
 * be killed between any two steps, MAX_DEATHS times; the next one reads the journal.
 * The broker may be killed MAX_DEATHS times; what it has acknowledged stays. A reply may
 * be lost with either.
 *
 * Checked: in the log each process' exit comes once, after its start, the added one's
 * before init's, nothing after "deleted"; the numbers have no gap. When nothing more can
 * happen, every process that ended has its exit in the log.
 *
 * BROKEN=1: the exit is published before it is in the journal.
 * BROKEN=2: the broker takes a repeat for something new.
 * BROKEN=3: init is reaped before its exit is in the journal.
 */

#ifndef BROKEN
#define BROKEN 0
#endif
#define MAX_DEATHS 2
#define ENTRIES    6

mtype = { CREATED, STARTED, EXEC_STARTED, EXEC_EXIT, EXIT, DELETED };
mtype = { NONE, ALIVE, ZOMBIE, GONE };

/* The journal: survives every death. */
mtype journal[ENTRIES];
byte n_journal, n_acked;

/* The world. */
mtype first = NONE, added = NONE;

/* The broker's log: how many events, which kinds. It wants number n_log next. */
byte n_log;
bit logged[16];

byte shim_deaths, broker_deaths;
bool is_finished;

inline write_entry(kind)
{
	assert(n_journal < ENTRIES);
	journal[n_journal] = kind;
	n_journal++
}

inline append(kind)
{
	assert(logged[kind] == 0 && logged[DELETED] == 0);
	if
	:: kind == EXIT -> assert(logged[STARTED] && logged[EXEC_STARTED] == logged[EXEC_EXIT])
	:: kind == EXEC_EXIT -> assert(logged[EXEC_STARTED] && !logged[EXIT])
	:: kind == EXEC_STARTED -> assert(logged[STARTED] && !logged[EXIT])
	:: kind == STARTED -> assert(logged[CREATED])
	:: kind == DELETED -> assert(logged[EXIT])
	:: else
	fi;
	logged[kind] = 1;
	n_log++
}

/* One event to the broker: it takes the next number only, acknowledges a repeat. */
inline publish_one()
{
	if
	:: n_acked < n_journal ->
		/* The request may not arrive: the broker is away. */
		if
		:: broker_deaths < MAX_DEATHS -> broker_deaths++
		:: true ->
			atomic {
				if
#if BROKEN == 2
				:: true -> append(journal[n_acked])
#else
				:: n_acked == n_log -> append(journal[n_acked])
				:: n_acked < n_log /* a repeat */
#endif
				fi
			};
			/* The answer may be lost, or not be written down: then the same is sent again. */
			if
			:: broker_deaths < MAX_DEATHS -> broker_deaths++
			:: shim_deaths < MAX_DEATHS -> shim_deaths++; goto born
			:: n_acked++
			fi
		fi
	:: else
	fi
}

/* The kernel, and whoever kills containers. */
active proctype world()
{
	do
	:: atomic { added == ALIVE -> added = ZOMBIE }
	:: atomic { first == ALIVE ->
		/* zap_pid_ns_processes(): the others end and are gone before init is a zombie. */
		if :: added == ALIVE -> added = ZOMBIE :: else fi;
		first = ZOMBIE
	   }
	:: is_finished -> break
	od
}

/* What a shim does from its start, whatever the last one left. */
active proctype shim()
{
	bool has_created, has_started, has_exec, has_exec_exit, has_exit, has_deleted;
	byte at;

born:
	has_created = false; has_started = false; has_exec = false;
	has_exec_exit = false; has_exit = false; has_deleted = false;
	at = 0;
	do
	:: at < n_journal ->
		if
		:: journal[at] == CREATED -> has_created = true
		:: journal[at] == STARTED -> has_started = true
		:: journal[at] == EXEC_STARTED -> has_exec = true
		:: journal[at] == EXEC_EXIT -> has_exec_exit = true
		:: journal[at] == EXIT -> has_exit = true
		:: journal[at] == DELETED -> has_deleted = true
		fi;
		at++
	:: else -> break
	od;
	/* A create that was cut: no CREATED entry, so what the runtime made is undone and nobody hears of it. */
	if
	:: !has_created && first != NONE -> first = NONE; added = NONE
	:: else
	fi;

	do
	/* killed between two steps; its successor is not the parent of what it finds */
	:: shim_deaths < MAX_DEATHS -> shim_deaths++;
		/* The new parent reaps what was a zombie or ends later. */
		atomic {
			if :: first == ZOMBIE -> first = GONE :: else fi;
			if :: added == ZOMBIE -> added = GONE :: else fi
		};
		goto born

	:: !has_created -> first = ALIVE;
		if
		:: shim_deaths < MAX_DEATHS -> shim_deaths++; goto born
		:: true
		fi;
		write_entry(CREATED); has_created = true
	:: has_created && !has_started && !has_exit -> write_entry(STARTED); has_started = true

	/* An added process: refused once init has ended. */
	:: has_started && !has_exec && first == ALIVE && !has_exit ->
		atomic { if :: first == ALIVE -> added = ALIVE :: else fi };
		if
		:: added != NONE -> write_entry(EXEC_STARTED); has_exec = true
		:: else
		fi

	/* The end of the added one. Not the parent: by its pidfd, which shows ZOMBIE and GONE alike. */
	:: has_exec && !has_exec_exit && (added == ZOMBIE || added == GONE) ->
		write_entry(EXEC_EXIT); has_exec_exit = true; added = GONE

	/* Init's end: only after the added one's is written down. */
	:: has_started && !has_exit && (first == ZOMBIE || first == GONE) && (!has_exec || has_exec_exit) ->
#if BROKEN == 3
		first = NONE;
		if :: shim_deaths < MAX_DEATHS -> shim_deaths++; goto born :: true fi;
#endif
#if BROKEN == 1
		append(EXIT);
		if :: shim_deaths < MAX_DEATHS -> shim_deaths++; goto born :: true fi;
#endif
		write_entry(EXIT); has_exit = true;
		/* Killed before it reaps: the next one finds the entry. */
		first = GONE

	:: has_exit && !has_deleted -> write_entry(DELETED); has_deleted = true
	:: n_acked < n_journal -> publish_one()
	:: has_deleted && n_acked == n_journal -> break
	od;
	is_finished = true;
	assert(logged[EXIT]);
	assert(!has_exec || logged[EXEC_EXIT]);
	assert(n_log == n_journal)
}
