#pragma once
/* What the manual says before its tables. Markdown. */

extern const char manual_introduction[];
extern const char manual_limits[];
