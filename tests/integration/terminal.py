"""Terminals of the test's own: a tmux server on a socket of its own, driven by keys and read as a screen."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from davit import wait_for  # noqa: E402


class Terminal:
    """One tmux server with one window, in which a shell runs. Its prompt is '> '; the server ends with the test."""

    def __init__(self, davit, width=80, height=24):
        self.socket = os.path.join(davit.work, "tmux-%d" % id(self))
        self.davit = davit
        env = dict(davit.env, PS1="> ", ENV="", TERM="xterm", SHELL="/bin/sh", TMUX_TMPDIR=davit.work)
        self.base = ["tmux", "-S", self.socket, "-f", "/dev/null"]
        self.env = env
        self.width, self.height = width, height

    def __enter__(self):
        self.tmux("new-session", "-d", "-x", str(self.width), "-y", str(self.height), "sh")
        try:
            self.wait("> ")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            sys.stderr.write("--- screen\n" + self.screen() + "\n")
        self.end()

    def end(self):
        subprocess.run(self.base + ["kill-server"], env=self.env, capture_output=True)

    def tmux(self, *words):
        return subprocess.run(self.base + list(words), env=self.env, check=True, capture_output=True).stdout.decode()

    def type(self, text):
        """The text and Enter."""
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def keys(self, *keys):
        """tmux's names: C-p, Escape, Enter …"""
        self.tmux("send-keys", *keys)

    def screen(self):
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def lines(self):
        return [line.rstrip() for line in self.screen().splitlines()]

    def wait(self, text):
        """Until a line of the screen is this text; one that ends in a blank is a prompt: the last line that has anything."""
        def found():
            lines = [line for line in self.lines() if line]
            return text.rstrip() in (lines[-1:] if text.endswith(" ") else lines)
        try:
            wait_for(found, "%r on the screen" % text, 30)
        except AssertionError as error:
            raise AssertionError("%s:\n%s" % (error, self.screen())) from None

    def resize(self, width, height):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def clear(self):
        self.keys("C-l")
        self.tmux("send-keys", "-R")
        self.tmux("clear-history")

    def run(self, *words):
        """Types a davit command, then its exit code behind it as 'code N'."""
        self.type(" ".join(self.davit.base + list(words)) + "; echo code $?")
