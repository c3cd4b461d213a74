# SJE: build, install, run and test. `make help` lists the targets.
# Objects live in build/<flavour>/; flavours: release (default), asan, coverage, tsan.

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
PKGS := libuv jansson yaml-0.1 libpq librabbitmq libmicrohttpd

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wvla -Wformat=2 -Wundef -Wconversion -Wno-sign-conversion \
	-Wswitch-enum -Wimplicit-fallthrough -Wpointer-arith -Wwrite-strings -Wcast-qual \
	-Wdouble-promotion $(if $(CI),-Werror,$(WERROR))
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
CPPFLAGS += -I. -D_GNU_SOURCE -DSJE_VERSION='"$(VERSION)"'
CFLAGS_release  := -O2 -g -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 $(HARDEN)
CFLAGS_asan     := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan     := -O1 -g -fsanitize=thread
CFLAGS_coverage := -O0 -g --coverage -fprofile-update=atomic
LDFLAGS_release  := -pie -Wl,-z,relro,-z,now,-z,noexecstack
LDFLAGS_asan     := -fsanitize=address,undefined
LDFLAGS_tsan     := -fsanitize=thread
LDFLAGS_coverage := --coverage

CFLAGS_ALL  = -std=c17 $(WARN) $(CFLAGS_$(FLAVOUR)) $(CFLAGS) -MMD -MP
LDFLAGS_ALL = $(LDFLAGS_$(FLAVOUR)) $(LDFLAGS)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm

LIB_SRC  := $(wildcard internal/*.c pkg/*/*.c api/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(OUT)/%.o)
LIB      := $(OUT)/libsje.a
PROGRAMS := $(notdir $(wildcard cmd/*))
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/tests/unit/%,$(wildcard tests/unit/test_*.c))
INTEGRATION := $(patsubst tests/integration/%.c,$(OUT)/tests/integration/%,$(wildcard tests/integration/test_*.c))

.PHONY: all help clean unit-bins integration-bins
.SECONDARY:

all: $(PROGRAMS:%=$(BIN)/%) ## build the programs

help: ## this list
	@sed -nE 's/^([a-z][a-z-]*):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(PKG_CFLAGS) $(CFLAGS_ALL) -c -o $@ $<

$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

# One rule per program: all of cmd/<program>/*.c and the library.
define program_rule
$(BIN)/$(1): $(patsubst %.c,$(OUT)/%.o,$(wildcard cmd/$(1)/*.c)) $(LIB)
	@mkdir -p $$(@D)
	$$(CC) $$(LDFLAGS_ALL) -o $$@ $$^ $$(LIBS_$(1)) $$(PKG_LIBS)
endef
LIBS_sje := -lcurl
$(foreach p,$(PROGRAMS),$(eval $(call program_rule,$(p))))

# Tests: one binary per file, linked with the library and cmocka.
$(OUT)/tests/%: $(OUT)/tests/%.o $(LIB)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(PKG_LIBS)

unit-bins: $(UNIT)
integration-bins: $(INTEGRATION)

clean: ## remove what was built
	rm -rf build coverage-report

-include $(shell find build -name '*.d' 2>/dev/null)
