# davit. `make help` lists the targets. Objects and programs go under $(BUILD).

BUILD   ?= build
PREFIX  ?= /usr/local
CC      ?= cc
AR      ?= ar
VERSION := 0.1.0
# Sanitizers and the like: make BUILD=build-asan SANITIZE=address,undefined
SANITIZE ?=
# make V=1 prints the compiler's command lines.
V ?=
Q := $(if $(V),,@)
# A build that can be made to fail anywhere (broker/lib/points.h): make BUILD=build-points POINTS=1
POINTS ?=

WARN     := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) -fno-strict-aliasing -fstack-protector-strong -fPIE \
	    -D_GNU_SOURCE -DDAVIT_VERSION='"$(VERSION)"' -I. -MMD -MP $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined) $(POINTS_CFLAGS)
# The tests' own objects have none.
POINTS_CFLAGS = $(if $(POINTS),$(if $(filter tests/%,$<),,-DDAVIT_POINTS -I$(BUILD) -include broker/lib/points.h))
ALL_LDFLAGS = $(LDFLAGS) -Wl,-z,relro,-z,now -Wl,--as-needed $(if $(SANITIZE),-fsanitize=$(SANITIZE))

# ---- what is made of what: the folders are the modules, main.c is the program --------------------

# folder := program (the folder's files but main.c become an archive that tests link too)
PROCESSES := broker services/container services/image services/image/work services/runtime services/task shim tools
program_broker             := davit-broker
program_services/container := davit-container
program_services/image     := davit-image
program_services/image/work := davit-image-work
program_services/runtime   := davit-runtime
program_services/task      := davit-task
program_shim               := davit-shim
program_tools              := davit

SCHEMA_SRC := $(filter-out schemas/json%.c schemas/%_main.c,$(wildcard schemas/*.c))
JSON_SRC   := $(wildcard schemas/json*.c)
BUS_SRC    := $(wildcard broker/lib/bus*.c broker/lib/nng*.c)
BASE_SRC   := $(filter-out $(BUS_SRC),$(wildcard broker/lib/*.c))
SERVICE_SRC := $(wildcard services/lib/*.c)

LIB_SCHEMA  := $(BUILD)/libdavit-schema.a
LIB_JSON    := $(BUILD)/libdavit-json.a
LIB_BASE    := $(BUILD)/libdavit-base.a
LIB_BUS     := $(BUILD)/libdavit-bus.a
LIB_SERVICE := $(BUILD)/libdavit-service.a

# The libraries that each process may link (the "may include" table of docs/architecture.md).
BASE_LIBS    = $(LIB_BASE) $(LIB_SCHEMA) -lmsgpackc
BUS_LIBS     = $(LIB_BUS) $(BASE_LIBS) -lnng -lpthread
JSON_LIBS    = $(LIB_JSON) $(LIB_SCHEMA) -ljansson
SERVICE_LIBS = $(LIB_SERVICE) $(JSON_LIBS) $(BUS_LIBS) -llmdb
libs_broker                = $(BUS_LIBS) -llmdb
libs_services/container    = $(SERVICE_LIBS)
libs_services/image        = $(SERVICE_LIBS) -lcrypto
# The child shares the parsers of its parent's folder.
libs_services/image/work   = $(call archive_of,services/image) $(JSON_LIBS) $(BASE_LIBS) -larchive -lcurl -lcrypto -lpthread
libs_services/runtime      = $(SERVICE_LIBS)
libs_services/task         = $(SERVICE_LIBS)
libs_shim                  = $(BASE_LIBS)
# One a container: without relocations and libraries it has the fewest pages of its own (shim/README.md).
ldflags_shim               = $(if $(SANITIZE),,-Wl,--gc-sections)
pie_shim                   = $(if $(SANITIZE),-pie,-static)
libs_tools                 = $(JSON_LIBS) $(BASE_LIBS) -lpthread

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
archive_of = $(BUILD)/lib$(subst /,-,$(1)).a

PROGRAMS := $(foreach p,$(PROCESSES),$(if $(wildcard $(p)/main.c),$(BUILD)/bin/$(program_$(p))))

.PHONY: all
all: $(PROGRAMS)

# What stands at the start of all objects of a build with points.
POINT_CALLS := $(if $(POINTS),$(BUILD)/points_calls.h)
$(BUILD)/points_calls.h: broker/lib/points.def
	@mkdir -p $(@D)
	$(Q)sed -n 's/^POINT_CALL(\([a-z_0-9]*\))$$/#define \1(...) POINT_CALL(\1, __VA_ARGS__)/p' $< >$@.new
	$(Q)cmp -s $@.new $@ || mv $@.new $@

$(BUILD)/obj/%.o: %.c $(POINT_CALLS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

define archive_rule
$(1): $(2)
	@rm -f $$@
	$(Q)$$(AR) rcs $$@ $$^
endef
$(eval $(call archive_rule,$(LIB_SCHEMA),$(call objects,$(SCHEMA_SRC))))
$(eval $(call archive_rule,$(LIB_JSON),$(call objects,$(JSON_SRC))))
$(eval $(call archive_rule,$(LIB_BASE),$(call objects,$(BASE_SRC))))
$(eval $(call archive_rule,$(LIB_BUS),$(call objects,$(BUS_SRC))))
$(eval $(call archive_rule,$(LIB_SERVICE),$(call objects,$(SERVICE_SRC))))
$(foreach p,$(PROCESSES),$(eval $(call archive_rule,$(call archive_of,$(p)),$(call objects,$(filter-out $(p)/main.c,$(wildcard $(p)/*.c))))))

define program_rule
$(BUILD)/bin/$(program_$(1)): $(BUILD)/obj/$(1)/main.o $(call archive_of,$(1)) $(filter %.a,$(libs_$(1)))
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(BUILD)/obj/$(1)/main.o $(call archive_of,$(1)) $$(libs_$(1)) $$(if $$(pie_$(1)),$$(pie_$(1)),-pie) $(if $(POINTS),$$(WRAP_MEMORY)) $$(ALL_LDFLAGS) $$(ldflags_$(1)) -o $$@
endef
$(foreach p,$(PROCESSES),$(eval $(call program_rule,$(p))))

# ---- the manual of the protocol, from the schemas ---------------------------------------------------

MANUAL := $(BUILD)/bin-internal/davit-manual
$(MANUAL): $(BUILD)/obj/schemas/manual_main.o $(LIB_SCHEMA)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $^ -lmsgpackc $(ALL_LDFLAGS) -o $@

.PHONY: docs check-docs
docs: $(MANUAL) $(BUILD)/bin/davit
	@mkdir -p docs tools/completions
	$(MANUAL) >docs/protocol.md
	$(BUILD)/bin/davit help-all --format man >tools/davit.1
	$(BUILD)/bin/davit help-all --format bash >tools/completions/davit.bash
check-docs: $(MANUAL) $(BUILD)/bin/davit
	@$(MANUAL) | diff -u docs/protocol.md - || { echo 'docs/protocol.md is stale: run make docs' >&2; exit 1; }
	@$(BUILD)/bin/davit help-all --format man | diff -u tools/davit.1 - || { echo 'tools/davit.1 is stale: run make docs' >&2; exit 1; }
	@$(BUILD)/bin/davit help-all --format bash | diff -u tools/completions/davit.bash - || { echo 'tools/completions/davit.bash is stale: run make docs' >&2; exit 1; }

# ---- tests: tests/unit mirrors the tree; test_x.c links its folder's archive -----------------------

UNIT_SRC := $(shell find tests/unit -name 'test_*.c' 2>/dev/null | sort)
UNIT_BIN := $(patsubst tests/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
TEST_LIB := $(BUILD)/libdavit-test.a
$(eval $(call archive_rule,$(TEST_LIB),$(call objects,$(wildcard tests/lib/*.c))))
ALL_LIBS = $(SERVICE_LIBS) -lcrypto -larchive -lcurl

# The archive of a unit test's folder: tests/unit/<folder>/test_x.c -> lib of <folder>, if it is a process.
unit_archive = $(foreach p,$(PROCESSES),$(if $(filter tests/unit/$(p)/test_%,$(1)),$(call archive_of,$(p)) $(filter $(call archive_of,services/image),$(libs_$(p)))))
# test_…out_of_memory.c: its allocations come to tests/lib/failing_memory.c.
WRAP_MEMORY := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=reallocarray,--wrap=strdup,--wrap=strndup,--wrap=vasprintf
wrap_of = $(if $(filter %out_of_memory.c,$(1)),$(WRAP_MEMORY))
# Tests of the bus itself, integration tests and test programs: the real one, before tests/lib/fake_bus.c is seen.
real_bus = $(if $(filter tests/unit/broker/%,$(1)),$(LIB_BUS))
define unit_rule
$(patsubst tests/%.c,$(BUILD)/tests/%,$(1)): $(call objects,$(1)) $(call unit_archive,$(1)) $(TEST_LIB) $(LIB_SERVICE) $(LIB_BUS) $(LIB_BASE) $(LIB_JSON) $(LIB_SCHEMA)
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(call objects,$(1)) $(call unit_archive,$(1)) $(call real_bus,$(1)) $(TEST_LIB) $$(ALL_LIBS) -lcmocka $(call wrap_of,$(1)) $$(ALL_LDFLAGS) -o $$@
endef
$(foreach t,$(UNIT_SRC),$(eval $(call unit_rule,$(t))))

# ---- fuzz targets: tests/fuzz/fuzz_x.c, or tests/fuzz/<folder>/fuzz_x.c with that folder's archive --------

FUZZ_RUNS ?= 50000
FUZZ_SRC := $(shell find tests/fuzz -name 'fuzz_*.c' 2>/dev/null | sort)
FUZZ_MAIN := $(BUILD)/obj/tests/fuzz/corpus_main.o
fuzz_name = $(patsubst fuzz_%.c,%,$(notdir $(1)))
fuzz_archive = $(foreach p,$(PROCESSES),$(if $(filter tests/fuzz/$(p)/fuzz_%,$(1)),$(call archive_of,$(p)) $(filter $(call archive_of,services/image),$(libs_$(p)))))
fuzz_libs = $(if $(strip $(call fuzz_archive,$(1))),$(ALL_LIBS),$(JSON_LIBS) $(BASE_LIBS))
fuzz_needs = $(call objects,$(1)) $(call fuzz_archive,$(1)) $(TEST_LIB) $(filter %.a,$(call fuzz_libs,$(1)))
CORPUS_BIN := $(foreach f,$(FUZZ_SRC),$(BUILD)/tests/fuzz/corpus_$(call fuzz_name,$(f)))
FUZZ_BIN := $(foreach f,$(FUZZ_SRC),$(BUILD)/tests/fuzz/fuzz_$(call fuzz_name,$(f)))

# The same file twice: with a main() that runs its corpus (a unit test), and with libFuzzer's.
define fuzz_rule
$(BUILD)/tests/fuzz/corpus_$(call fuzz_name,$(1)): $(FUZZ_MAIN) $(call fuzz_needs,$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(call objects,$(1)) $(FUZZ_MAIN) $(call fuzz_archive,$(1)) $(TEST_LIB) $(call fuzz_libs,$(1)) $$(ALL_LDFLAGS) -o $$@
$(BUILD)/tests/fuzz/fuzz_$(call fuzz_name,$(1)): $(call fuzz_needs,$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(call objects,$(1)) $(call fuzz_archive,$(1)) $(TEST_LIB) $(call fuzz_libs,$(1)) $$(ALL_LDFLAGS) -fsanitize=fuzzer -o $$@
endef
$(foreach f,$(FUZZ_SRC),$(eval $(call fuzz_rule,$(f))))

.PHONY: unit fuzz fuzz-programs fuzz-corpus
unit: $(UNIT_BIN) $(CORPUS_BIN)

# FUZZ="name name" runs only these.
fuzz-programs: $(if $(FUZZ),$(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%),$(FUZZ_BIN))
fuzz:
	+$(MAKE) --no-print-directory BUILD=$(BUILD)-fuzz CC=clang SANITIZE=fuzzer-no-link,address,undefined fuzz-programs
	tests/fuzz/run.sh $(BUILD)-fuzz $(FUZZ_RUNS) $(FUZZ)

# Each check of tests/mutation/checks.py taken out: its test fails. CHECKS="word word" takes only those.
.PHONY: mutation
mutation: tests
	CC="$(CC)" SANITIZE="$(SANITIZE)" python3 tests/mutation/run.py $(BUILD) $(CHECKS)

# Writes the seeds of those targets that read davit's own formats anew.
$(BUILD)/tests/fuzz/make_corpus: $(BUILD)/obj/tests/fuzz/make_corpus.o $(TEST_LIB) $(LIB_SCHEMA)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) $^ -lmsgpackc $(ALL_LDFLAGS) -o $@
fuzz-corpus: $(BUILD)/tests/fuzz/make_corpus
	mkdir -p tests/fuzz/corpus/message tests/fuzz/corpus/envelope
	rm -f tests/fuzz/corpus/*/seed-*
	$<

# Programs that tests start (a service, an OCI runtime that misbehaves on order): one file each.
TEST_PROGRAM_SRC := $(wildcard tests/programs/*.c)
TEST_PROGRAMS := $(patsubst tests/programs/%.c,$(BUILD)/tests/bin/%,$(TEST_PROGRAM_SRC))
define test_program_rule
$(patsubst tests/programs/%.c,$(BUILD)/tests/bin/%,$(1)): $(call objects,$(1)) $(TEST_LIB) $(LIB_SERVICE) $(LIB_BUS) $(LIB_BASE) $(LIB_JSON) $(LIB_SCHEMA)
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(call objects,$(1)) $(LIB_BUS) $(TEST_LIB) $$(SERVICE_LIBS) $$(ALL_LDFLAGS) -o $$@
endef
$(foreach t,$(TEST_PROGRAM_SRC),$(eval $(call test_program_rule,$(t))))

# Integration tests drive the built programs: test_*.c are cmocka programs, test_*.py and test_*.sh are run as they are.
INTEGRATION_SRC := $(wildcard tests/integration/test_*.c)
INTEGRATION_BIN := $(patsubst tests/%.c,$(BUILD)/tests/%,$(INTEGRATION_SRC))
define integration_rule
$(patsubst tests/%.c,$(BUILD)/tests/%,$(1)): $(call objects,$(1)) $(TEST_LIB) $(LIB_SERVICE) $(LIB_BUS) $(LIB_BASE) $(LIB_JSON) $(LIB_SCHEMA)
	@mkdir -p $$(@D)
	$(Q)$$(CC) $$(ALL_CFLAGS) $(call objects,$(1)) $(LIB_BUS) $(TEST_LIB) $$(ALL_LIBS) -lcmocka $$(ALL_LDFLAGS) -o $$@
endef
$(foreach t,$(INTEGRATION_SRC),$(eval $(call integration_rule,$(t))))

.PHONY: tests
tests: all unit $(TEST_PROGRAMS) $(INTEGRATION_BIN)

# Builds and runs every test; prints one closing line. STRICT=1 makes a skipped test a failure.
.PHONY: check
check: packages-test
	tests/check.sh

.PHONY: check-unit check-integration
check-unit: all unit
	tests/run.sh $(BUILD) unit
check-integration: tests
	tests/run.sh $(BUILD) integration

# Walks the points of all operations, for half an hour and more; see tests/points/README.md for less.
.PHONY: points
points:
	+$(MAKE) --no-print-directory BUILD=$(BUILD)-points POINTS=1 all
	BUILD=$(CURDIR)/$(BUILD)-points $${PYTHON:-/usr/bin/python3} tests/points/walk.py --keep-going $(WALK)

.PHONY: lint
lint:
	tests/lint.sh

# ---- packages, demo, bench, install ----------------------------------------------------------------

.PHONY: packages-build packages-test packages-demo packages-bench
packages-build:
	@tools/packages.sh build
packages-test:
	@tools/packages.sh build run test
packages-demo:
	@tools/packages.sh build run demo
packages-bench:
	@tools/packages.sh build run bench

.PHONY: demo
demo: packages-demo
	+$(MAKE) --no-print-directory all
	tools/demo.sh $(BUILD)/bin

.PHONY: bench
bench: packages-bench
	+$(MAKE) --no-print-directory all
	tools/bench/bench.sh $(BUILD)

SECONDS ?= 60
SEED ?= $(shell date +%s)
.PHONY: chaos
chaos:
	+$(MAKE) --no-print-directory all
	BUILD=$(BUILD) /usr/bin/python3 tests/chaos/chaos.py --seconds $(SECONDS) --seed $(SEED)

UNITS := $(wildcard tools/systemd/*.service)
LIB_HEADERS := $(wildcard broker/lib/*.h) $(wildcard schemas/*.h) $(wildcard schemas/*.def)

.PHONY: install
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/
	cd $(BUILD) && ar -M <$(CURDIR)/broker/lib/libdavit.mri
	install -m 644 $(BUILD)/libdavit.a $(DESTDIR)$(PREFIX)/lib/
	for h in $(LIB_HEADERS); do install -D -m 644 $$h $(DESTDIR)$(PREFIX)/include/davit/$$h; done
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' broker/lib/libdavit.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/libdavit.pc
	install -D -m 644 tools/davit.1 $(DESTDIR)$(PREFIX)/share/man/man1/davit.1
	install -D -m 644 tools/completions/davit.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/davit
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for u in $(UNITS); do sed 's|@PREFIX@|$(PREFIX)|' $$u >$(DESTDIR)$(PREFIX)/lib/systemd/system/$${u##*/}; done

.PHONY: clean
clean:
	rm -rf $(BUILD) $(BUILD)-*

.PHONY: format
format:
	find broker schemas services shim tools tests -name '*.c' | xargs clang-format -i

.PHONY: help
help:
	@echo 'make             build everything into $(BUILD)/bin'
	@echo 'make demo        install what is missing, build, and run a real container from nothing to nothing'
	@echo 'make check       install what is missing, build, run every test (.ci/run calls this)'
	@echo 'make check-unit, check-integration    only these, without sanitizers'
	@echo 'make lint        layering, headers alone, format, function size, cppcheck, SPEC.md'
	@echo 'make fuzz        run the fuzz targets (FUZZ_RUNS each)'
	@echo 'make chaos       random deaths of everything under load, for SECONDS, as SEED says; what is lost is printed'
	@echo 'make mutation    take out each check of tests/mutation/checks.py: its test fails'
	@echo 'make points      die, stall and fail at every commit, message, spawn, file operation and mount (WALK=options)'
	@echo 'make bench       figures against bare crun and containerd, with the budgets beside them'
	@echo 'make docs        write docs/protocol.md, the manual page and the completion from their tables'
	@echo 'make install     DESTDIR= PREFIX=$(PREFIX)'
	@echo 'make format clean help'
	@echo 'BUILD=dir, SANITIZE=address,undefined and CC=clang select another build.'

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
