# SJE: build, install, run and test. `make help` lists the targets.
# Objects live in build/<flavour>/; flavours: release (default), asan, coverage, tsan,
# fuzz (clang only), chaos (release with crash points, see internal/chaos.h).

FLAVOUR ?= release
CC      ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX  ?= /usr
DESTDIR ?=
VERSION := 0.1.0

OUT  := build/$(FLAVOUR)
BIN  := $(OUT)/bin
PKGS := libuv jansson yaml-0.1 libpq librabbitmq libmicrohttpd libcrypto libcurl

# clang does not see the fall-through comments in uthash's macros.
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wvla -Wformat=2 -Wundef -Wconversion -Wno-sign-conversion \
	-Wswitch-enum -Wpointer-arith -Wwrite-strings -Wcast-qual -Wdouble-promotion \
	$(if $(findstring clang,$(CC)),,-Wimplicit-fallthrough) $(if $(CI),-Werror,$(WERROR))
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
CPPFLAGS += -I. -D_GNU_SOURCE -DSJE_VERSION='"$(VERSION)"'
CFLAGS_release  := -O2 -g -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 $(HARDEN)
CFLAGS_chaos    := $(CFLAGS_release) -DSJE_CHAOS -DSJE_BREAK
CFLAGS_asan     := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan     := -O1 -g -fsanitize=thread
CFLAGS_coverage := -O0 -g --coverage -fprofile-update=atomic
CFLAGS_fuzz     := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
LDFLAGS_fuzz     := -fsanitize=address,undefined
LDFLAGS_release  := -pie -Wl,-z,relro,-z,now,-z,noexecstack
LDFLAGS_chaos    := $(LDFLAGS_release)
LDFLAGS_asan     := -fsanitize=address,undefined
LDFLAGS_tsan     := -fsanitize=thread
LDFLAGS_coverage := --coverage

CFLAGS_ALL  = -std=c17 $(WARN) $(CFLAGS_$(FLAVOUR)) $(CFLAGS) -MMD -MP
LDFLAGS_ALL = $(LDFLAGS_$(FLAVOUR)) $(LDFLAGS)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# As needed: a program starts with the libraries that it uses.
PKG_LIBS   := -Wl,--as-needed $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm

LIB_SRC  := $(wildcard internal/*.c pkg/*/*.c api/*.c)
SQL      := $(sort $(wildcard configs/sql/*.sql))
LIB_OBJ  := $(LIB_SRC:%.c=$(OUT)/%.o) $(OUT)/gen/migrations.o
LIB      := $(OUT)/libsje.a
PROGRAMS := $(notdir $(wildcard cmd/*))
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/tests/unit/%,$(wildcard tests/unit/test_*.c))
INTEGRATION := $(patsubst tests/integration/%.c,$(OUT)/tests/integration/%,$(wildcard tests/integration/test_*.c))

BENCH_BINS := $(patsubst tests/bench/%.c,$(OUT)/tests/bench/%,$(wildcard tests/bench/*.c))
FUZZ := $(patsubst tests/fuzz/%.c,$(OUT)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all help clean examples docs unit-bins integration-bins fuzz-bins bench-bins
.PHONY: install uninstall attack chaos chaos-broken chaos-bins bench bench-quick
.PHONY: run stop test sim sim-broken sim-bins unit integration e2e asan lint fmt coverage fuzz valgrind
.SECONDARY:

all: $(PROGRAMS:%=$(BIN)/%) $(BIN)/sje-listener.jar ## build the programs

help: ## this list
	@sed -nE 's/^([a-z][a-z0-9 -]*):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS_ALL) -c -o $@ $<

# The migrations of the database become part of the program.
$(OUT)/gen/migrations.c: $(SQL) configs/sql tools/embed-sql.sh
	@mkdir -p $(@D)
	tools/embed-sql.sh $(SQL) >$@.tmp
	@mv $@.tmp $@

$(OUT)/gen/%.o: $(OUT)/gen/%.c
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS_ALL) -c -o $@ $<

$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

# One rule per program: all of cmd/<program>/*.c and the library.
define program_rule
$(BIN)/$(1): $(patsubst %.c,$(OUT)/%.o,$(wildcard cmd/$(1)/*.c)) $(LIB)
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ $$(PKG_LIBS)
endef
$(foreach p,$(filter-out sje-shim,$(PROGRAMS)),$(eval $(call program_rule,$(p))))

# The shim: libc alone, static, because there is one per running task and it starts with each. With
# musl where tools/deps.sh could unpack that: glibc asks the processor for its caches at every start,
# which takes half a millisecond on a virtual machine.
MUSL := $(if $(filter release-gcc,$(FLAVOUR)-$(CC)),$(if $(wildcard .deps/musl/done),$(firstword \
	$(wildcard .deps/musl/usr/lib/*-linux-musl))))
MUSL_INC := $(subst /usr/lib/,/usr/include/,$(MUSL))
ifneq ($(MUSL),)
$(BIN)/sje-shim: $(wildcard cmd/sje-shim/*.[ch]) pkg/executors/plan.h
	@mkdir -p $(@D)
	$(CC) -nostdinc -isystem $(MUSL_INC) -isystem $(shell $(CC) -print-file-name=include) \
		$(CPPFLAGS) -std=c17 $(WARN) $(CFLAGS_release) -fno-pie $(CFLAGS) -static -no-pie \
		$(filter-out -pie,$(LDFLAGS_release)) $(LDFLAGS) -nostdlib -o $@ $(MUSL)/crt1.o $(MUSL)/crti.o \
		$(filter %.c,$^) -L$(MUSL) -lc $(shell $(CC) -print-libgcc-file-name) $(MUSL)/crtn.o
else
$(BIN)/sje-shim: $(patsubst %.c,$(OUT)/%.o,$(wildcard cmd/sje-shim/*.c))
	@mkdir -p $(@D)
	$(CC) $(patsubst -pie,-static-pie,$(LDFLAGS_ALL)) -o $@ $^
endif

# What tells the progress of a Spark application from inside of its driver. Runs on Java 8 and later.
SPARK_JARS ?= $(firstword $(wildcard $(SPARK_HOME)/jars .venv/lib/python3*/site-packages/pyspark/jars))
LISTENER := $(wildcard pkg/executors/java/*.java)
$(BIN)/sje-listener.jar: $(LISTENER)
	@mkdir -p $(@D)
	@[ -d '$(SPARK_JARS)' ] && command -v javac >/dev/null || { echo \
		'javac or the jars of Spark are missing: run tools/deps.sh run, or set SPARK_HOME' >&2; exit 1; }
	@rm -rf $(OUT)/listener
	javac -Xlint:all,-classfile,-path,-processing,-options --release 8 -cp '$(SPARK_JARS)/*' \
		-d $(OUT)/listener $(LISTENER)
	jar --create --file $@.tmp -C $(OUT)/listener .
	@mv $@.tmp $@

# Tests: one binary per file, linked with the library and cmocka.
$(OUT)/tests/%: $(OUT)/tests/%.o $(LIB)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(PKG_LIBS)

# The shim's own code with a wall clock that the test moves.
$(OUT)/tests/unit/test_shim_clock: LDFLAGS += -Wl,--wrap=wall_ms
$(OUT)/tests/unit/test_shim_clock: $(patsubst %.c,$(OUT)/%.o,$(filter-out %/main.c,$(wildcard \
	cmd/sje-shim/*.c)))

# What the chaos run's tasks do: leave marks.
$(OUT)/tests/chaos/mark: $(OUT)/tests/chaos/mark.o
	$(CC) $(LDFLAGS_ALL) -o $@ $^
chaos-bins: all $(OUT)/tests/chaos/mark

# Fuzz targets: with libFuzzer in flavour fuzz, else with a main that replays a corpus.
FUZZ_MAIN := $(if $(filter fuzz,$(FLAVOUR)),,$(OUT)/tests/fuzz/replay.o)
$(OUT)/tests/fuzz/fuzz_%: $(OUT)/tests/fuzz/fuzz_%.o $(FUZZ_MAIN) $(LIB)
	$(CC) $(LDFLAGS_ALL) $(if $(FUZZ_MAIN),,-fsanitize=fuzzer) -o $@ $^ $(PKG_LIBS)

# The simulation: the product's own objects in a world of virtual time. `sim` links them as they are;
# `broken` has them compiled again with rules that can be broken (internal/broken.h).
SIM_SRC  := $(wildcard tests/sim/*.c)
SIM_WRAP := $(foreach f,clock_boot_ms clock_wall_ms random_u64 id_new base_panic \
	gethostname getpid,-Wl,--wrap=$(f))
$(OUT)/tests/sim/sim: $(SIM_SRC:%.c=$(OUT)/%.o) $(LIB)
	$(CC) $(LDFLAGS_ALL) $(SIM_WRAP) -o $@ $^ $(PKG_LIBS)
$(OUT)/broken/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -DSJE_BREAK $(PKG_CFLAGS) $(CFLAGS_ALL) -c -o $@ $<
$(OUT)/broken/libsje.a: $(LIB_SRC:%.c=$(OUT)/broken/%.o) $(OUT)/gen/migrations.o
	@rm -f $@
	$(AR) rcs $@ $^
$(OUT)/tests/sim/broken: $(SIM_SRC:%.c=$(OUT)/broken/%.o) $(OUT)/broken/libsje.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $(SIM_WRAP) -o $@ $^ $(PKG_LIBS)

sim-bins: $(OUT)/tests/sim/sim $(OUT)/tests/sim/broken
unit-bins: $(UNIT) $(BIN)/sje-shim
integration-bins: $(INTEGRATION)
fuzz-bins: $(FUZZ)
bench-bins: $(BENCH_BINS)

build/examples/done: tools/examples.sh $(wildcard examples/java/*/*.java)
	tools/examples.sh $(@D)
examples: build/examples/done ## the Java examples (needs javac and .venv)

run: ## install what is missing, start everything below ./var, run a word count
	@tools/run.sh start
stop: ## stop what `make run` started
	@tools/run.sh stop
test: ## unit, integration and end-to-end tests, a short chaos run and a short attack
	@tools/test.sh $(FLAVOUR) unit sim integration e2e chaos attack
unit integration e2e: ## one kind of tests
	@tools/test.sh $(FLAVOUR) $@
asan: ## unit and integration tests under the address and undefined-behaviour sanitizers
	@tools/test.sh asan unit sim integration
sim: $(OUT)/tests/sim/sim ## SIM_SCHEDULES (100000) of the simulation from SEED on; SIM_TRACE=1 shows one
	@SIM_SCHEDULES=$(or $(SIM_SCHEDULES),100000) SEED=$(SEED) SIM_TRACE=$(SIM_TRACE) nice $<
sim-broken: $(OUT)/tests/sim/broken ## the same with each rule broken, one at a time: each must be caught
	@tools/sim-broken.sh $<
valgrind: ## unit tests and a short run of the server under valgrind
	@tools/valgrind.sh
fuzz: ## libFuzzer on each target for FUZZ_SECONDS (60)
	@tools/fuzz.sh $(or $(FUZZ_SECONDS),60)
bench: ## every measure beside its bar, docs/benchmarks.md; BENCH_SCALE=1 BENCH=names
	@tests/bench/run.sh $(BENCH)
bench-quick: ## the same with very little: does each measurement still work?
	@tests/bench/run.sh --quick
coverage: ## all tests; a browsable report in coverage-report/
	@tools/coverage.sh
chaos: ## faults of all kinds under load for CHAOS_SECONDS (300); SEED=, REPORT=1
	@tools/chaos.sh $(or $(CHAOS_SECONDS),300) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report) \
		$(if $(ONLY),--only '$(ONLY)')
attack: ## hostile clients of HTTP and of the broker for ATTACK_SECONDS (120); SEED=, ONLY=
	@tools/attack.sh $(or $(ATTACK_SECONDS),120) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only '$(ONLY)')
chaos-broken: ## faults that a build does not stand, each must be caught; minutes long
	@tools/chaos-broken.sh
lint: ## every check of the source
	@tools/lint.sh
fmt: ## format the source
	git ls-files --cached --others --exclude-standard '*.c' '*.h' | xargs clang-format -i

$(OUT)/gen-docs: $(OUT)/tools/gen-docs.o $(LIB)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS)
docs: $(OUT)/gen-docs $(BIN)/sje ## the documents that are generated from code
	$< config > docs/config.md
	$< config-man > docs/man/sje-config.yaml.5
	$< errors > docs/errors.md
	$< states > docs/states.md
	$< metrics > docs/metrics.md
	$(BIN)/sje help --markdown > docs/cli.md
	awk -f tools/cli-man.awk docs/cli.md > docs/man/sje.1
	$(BIN)/sje completion bash > configs/completion/sje.bash
	$(BIN)/sje completion zsh > configs/completion/_sje
	$(BIN)/sje completion fish > configs/completion/sje.fish

# Where Debian expects things. The configuration of an earlier installation stays.
BINDIR  := $(DESTDIR)$(PREFIX)/bin
PRIVDIR := $(DESTDIR)$(PREFIX)/lib/sje
UNITDIR := $(DESTDIR)$(PREFIX)/lib/systemd/system
USERDIR := $(DESTDIR)$(PREFIX)/lib/sysusers.d
SHARE   := $(DESTDIR)$(PREFIX)/share
ETCDIR  := $(DESTDIR)/etc/sje
MAN     := $(wildcard docs/man/*)
UNITS   := $(wildcard configs/systemd/*.service)
COMPLETIONS := bash-completion/completions/sje zsh/vendor-completions/_sje \
	fish/vendor_completions.d/sje.fish

install: all ## programs, plug-ins, configuration, units, manual pages; DESTDIR=, PREFIX=/usr
	install -d $(BINDIR) $(PRIVDIR)/plugins $(UNITDIR) $(USERDIR) $(ETCDIR)
	install $(BIN)/sje $(BINDIR)
	install -m 711 $(BIN)/sje-executor $(BINDIR) # nobody can look into a process of what he cannot read
	install $(BIN)/sje-shim $(BIN)/sje-spark $(PRIVDIR)
	install -m 644 $(BIN)/sje-listener.jar $(PRIVDIR)
	set -e; $(foreach p,$(wildcard plugins/*),install $(p) $(PRIVDIR)/plugins;)
	set -e; $(foreach u,$(UNITS),sed 's|/usr/bin/|$(PREFIX)/bin/|' $(u) >$(UNITDIR)/$(notdir $(u));)
	install -m 644 configs/systemd/sje.sysusers $(USERDIR)/sje.conf
	set -e; $(foreach m,$(MAN),install -D -m 644 $(m) $(SHARE)/man/man$(subst .,,$(suffix $(m)))/$(notdir $(m));)
	install -D -m 644 configs/completion/sje.bash $(SHARE)/bash-completion/completions/sje
	install -D -m 644 configs/completion/_sje $(SHARE)/zsh/vendor-completions/_sje
	install -D -m 644 configs/completion/sje.fish $(SHARE)/fish/vendor_completions.d/sje.fish
	install -D -m 644 LICENSE $(SHARE)/doc/sje/copyright
	[ -e $(ETCDIR)/sje-config.yaml ] || sed -e 's|\./var       |/var/lib/sje|' \
		-e 's|\./plugins|$(PREFIX)/lib/sje/plugins|' sje-config.yaml >$(ETCDIR)/sje-config.yaml

uninstall: ## what install put there, but the configuration
	rm -rf $(PRIVDIR) $(SHARE)/doc/sje $(USERDIR)/sje.conf $(BINDIR)/sje $(BINDIR)/sje-executor
	rm -f $(addprefix $(UNITDIR)/,$(notdir $(UNITS))) $(addprefix $(SHARE)/,$(COMPLETIONS))
	rm -f $(foreach m,$(MAN),$(SHARE)/man/man$(subst .,,$(suffix $(m)))/$(notdir $(m)))

clean: ## remove what was built
	rm -rf build coverage-report

-include $(shell find build -name '*.d' 2>/dev/null)
