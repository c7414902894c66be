#!/usr/bin/env python3
"""Terminals, as a person has them: tmux is the terminal, its keys are typed, its screen is read."""

import os
import signal
import subprocess
import sys
import termios

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import Davit, command_lines, main, wait_for  # noqa: E402
from terminal import Terminal  # noqa: E402

# Others of this machine may sleep too.
LONG, LONGER = str(1000000 + os.getpid()), str(2000000 + os.getpid())
# With its prompt busybox's shell asks the terminal where the cursor is, and the terminal answers by keys: they reach the
# shell if the prompt was seen before anything ends it or leaves it.
SHELL = ["-t", "--env", "'PS1=in> '", "busybox"]


def test_a_shell_in_a_container_is_typed_into_and_its_code_comes_back():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        t.run("run", "--rm", *SHELL, "tty", "sh")
        t.wait("in> ")
        t.type("echo $((40 + 2)); tty; stty size")
        t.wait("42")
        t.wait("24 80")
        t.wait("in> ")
        t.type("exit 7")
        t.wait("code 7")
        t.wait("> ")
        t.type("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo | sort | tr '\\n' .; echo")
        t.wait("echo.icanon.")


def test_keys_reach_the_program_and_not_this_command():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        t.run("run", "--rm", *SHELL, "tty", "sh")
        t.wait("in> ")
        t.type("sleep %s; echo interrupted $?" % LONG)
        t.wait("in> sleep %s; echo interrupted $?" % LONG)
        wait_for(lambda: [words for _, words in command_lines() if words == ["sleep", LONG]], "sleep runs")
        t.keys("C-c")
        t.wait("in> ")
        t.type("sleep " + LONGER)
        wait_for(lambda: [words for _, words in command_lines() if words == ["sleep", LONGER]], "sleep runs")
        t.keys("C-z")
        t.type("jobs | grep -c Stopped")
        t.wait("1")
        t.type("fg")
        t.wait("sleep " + LONGER)
        t.keys("C-c")
        t.wait("in> ")
        t.keys("C-d")
        t.wait("code 130")


def test_a_full_screen_program_follows_the_size_of_the_terminal():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        t.run("run", "--rm", *SHELL, "tty", "sh")
        t.wait("in> ")
        t.type("vi /tmp/file")
        wait_for(lambda: t.lines()[-1].startswith("- /tmp/file") and t.lines()[5:6] == ["~"], "vi is there")
        t.keys("i")
        t.type("first line")
        # busybox takes keys that follow Escape at once for the rest of a function key.
        t.wait("first line")
        t.keys("Escape")
        wait_for(lambda: t.lines()[-1].startswith("-"), "vi takes commands")
        t.type(":wq")
        t.wait("in> ")
        t.type("clear; cat /tmp/file")
        t.wait("first line")
        t.wait("in> ")
        t.resize(100, 30)
        t.type("clear; stty size")
        t.wait("30 100")
        t.wait("in> ")
        t.type("exit")
        t.wait("code 0")


def test_detach_leaves_it_running_and_two_terminals_attach_to_it():
    with Davit() as d, Terminal(d) as t, Terminal(d) as other:
        d.import_busybox()
        t.run("run", *SHELL, "tty", "sh")
        t.wait("in> ")
        t.type("A=kept")
        t.wait("in> A=kept")
        t.wait("in> ")
        t.keys("C-p", "C-q")
        t.wait("code 0")
        t.wait("> ")
        (task,) = d.json("tasks", "ls")
        assert task["status"] == "RUNNING", task
        t.type("clear")
        t.run("attach", "tty")
        other.run("attach", "--detach-keys", "ctrl-x", "tty")
        # Each sees what is written once it is attached, no sooner.
        t.wait("in> ")
        other.wait("in> ")
        t.type("echo $A")
        t.wait("kept")
        other.wait("kept")
        other.type("echo from $A")
        for terminal in (t, other):
            terminal.wait("from kept")
            terminal.wait("in> ")
        other.keys("C-x")
        other.wait("code 0")
        t.type("exit 5")
        t.wait("code 5")
        assert d("wait", "tty").stdout == b"5\n"
        d.check("rm", "tty")


def test_exec_has_a_terminal_of_its_own():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        t.run("exec", "-t", "--env", "'PS1=ex> '", "web", "sh")
        t.wait("ex> ")
        t.type("tty; stty size; exit 6")
        t.wait("24 80")
        t.wait("code 6")
        t.wait("> ")
        # What is seen comes through a terminal that is raw already.
        t.run("exec", "-t", "web", "sh", "-c", "'echo now; exec sleep %s'" % LONGER)
        t.wait("now")
        t.keys("C-c")
        t.wait("^Ccode 130")
        d.check("rm", "-f", "web")


def test_what_is_typed_before_the_process_runs_is_for_the_process():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        d.check("run", "-d", "busybox", "web", "sleep", "1000")
        tty = os.open(t.tmux("display-message", "-p", "#{pane_tty}").strip(), os.O_RDWR | os.O_NOCTTY)

        def waits():
            return clients(d, "exec") and not termios.tcgetattr(tty)[3] & (termios.ECHO | termios.ICANON)

        service = d.pid("davit-task")
        os.kill(service, signal.SIGSTOP)
        try:
            t.run("exec", "-t", "web", "cat")
            wait_for(waits, "nothing is echoed", 30)
            # Until then this command is interrupted as any other, and so the line behind it.
            t.keys("C-c")
            wait_for(lambda: not clients(d, "exec"), "it is interrupted", 30)
            t.wait("> ")
            t.type("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo | sort | tr '\\n' .; echo")
            t.wait("echo.icanon.")
            t.run("exec", "-t", "web", "sh", "-c", "'read A; echo read $A; exit 5'")
            wait_for(waits, "nothing is echoed", 30)
            t.type("early")
        finally:
            os.kill(service, signal.SIGCONT)
        t.wait("read early")
        t.wait("code 5")
        os.close(tty)
        d.check("rm", "-f", "web")


def clients(d, word):
    return [pid for pid, words in command_lines()
            if words and words[0].endswith("/bin/davit") and d.state in words and word in words]


def test_a_signal_to_the_client_gives_the_terminal_back_and_leaves_the_container():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        t.run("run", *SHELL, "tty", "sh")
        t.wait("in> ")
        t.type("echo; echo ready; read A")
        t.wait("ready")
        (pid,) = clients(d, "run")
        os.kill(pid, signal.SIGTERM)
        t.wait("code 143")
        t.wait("> ")
        t.type("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo | sort | tr '\\n' .; echo")
        t.wait("echo.icanon.")
        (task,) = d.json("tasks", "ls")
        assert task["status"] == "RUNNING", task
        d.check("rm", "-f", "tty")


def test_a_detached_container_with_a_terminal_is_attached_to_later():
    with Davit() as d, Terminal(d) as t:
        d.import_busybox()
        d.check("run", "-d", "-t", "--env", "PS1=in> ", "busybox", "tty", "sh")
        t.run("attach", "tty")
        # Drawn anew for the size of this terminal; the shell needs a key to say more.
        t.keys("Enter")
        t.wait("in> ")
        t.type("echo; stty size; read A; exit 3")
        t.wait("24 80")
        t.keys("Enter")
        t.wait("code 3")
        assert "24 80" in d.check("logs", "tty")
        d.check("rm", "tty")


def test_without_a_terminal_of_ours_the_container_still_has_one():
    with Davit() as d:
        d.import_busybox()
        result = d("run", "--rm", "-t", "busybox", "tty", "sh", "-c", "tty; exit 4")
        assert result.returncode == 4 and result.stdout.startswith(b"/dev/"), result
        assert result.stdout.endswith(b"\r\n"), result
        result = d("run", "--rm", "-t", "busybox", "tty", "sh", "-c", "read a; echo got $a", input=b"word\n")
        assert b"got word" in result.stdout and result.returncode == 0, result


def test_a_process_that_ends_before_its_runtime_does_has_had_its_terminal():
    with Davit() as d:
        d.import_busybox()
        for i in range(20):
            result = d("run", "--rm", "-t", "busybox", "short%d" % i, "tty")
            assert result.returncode == 0 and result.stdout.startswith(b"/dev/"), result


if __name__ == "__main__":
    main(globals())
