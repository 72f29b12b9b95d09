# Holdfast. `make up` starts a local cluster, `make check` runs every test; HACKING.md has the rest.
OUT   ?= build
CC    ?= gcc
SAN   ?=
OPT   ?= -O2
PREFIX ?= /usr/local
Q     := $(if $(V),,@)
say    = @printf '  %-8s %s\n'

PACKAGES := build-essential pkg-config liburing-dev libaio-dev libisal-dev libssl-dev liblz4-dev \
	protobuf-c-compiler libprotobuf-c-dev protobuf-compiler libgrpc-dev liblmdb-dev libjansson-dev \
	libyaml-dev libmicrohttpd-dev libcurl4-openssl-dev libseccomp-dev libcriterion-dev \
	libnbd-dev libnbd-bin python3-libnbd nbdkit qemu-utils fio e2fsprogs fuse3 curl jq \
	clang-14 clang-format clang-tidy libclang-rt-14-dev
PKGS  := liburing libisal openssl liblz4 libprotobuf-c grpc_unsecure gpr jansson yaml-0.1 libmicrohttpd

ROOMS := base base/rpc iosched services store snapshot replication volmgr csi orchestrator cli
PROTO := $(foreach r,$(ROOMS),$(wildcard $(r)/*.proto))
GENC  := $(PROTO:%.proto=$(OUT)/gen/%.pb-c.c)
TPROTO := $(wildcard tests/unit/*.proto)
TGENC := $(TPROTO:%.proto=$(OUT)/gen/%.pb-c.c)
TGENO := $(TGENC:$(OUT)/gen/%.c=$(OUT)/obj/gen/%.o)
LIBC  := $(filter-out %/holdfastd.c %/main.c,$(foreach r,$(ROOMS),$(wildcard $(r)/*.c)))
LIBO  := $(LIBC:%.c=$(OUT)/obj/%.o) $(GENC:$(OUT)/gen/%.c=$(OUT)/obj/gen/%.o)
CLIO  := $(patsubst %.c,$(OUT)/obj/%.o,$(wildcard cli/main.c))
SIMO  := $(patsubst %.c,$(OUT)/obj/%.o,$(filter-out %_test.c %_main.c %_tool.c,$(wildcard tests/sim/*.c tests/history/*.c)))
UNIT  := $(patsubst %.c,$(OUT)/%,$(wildcard tests/unit/*_test.c tests/history/*_test.c))
SIM   := $(patsubst %.c,$(OUT)/%,$(wildcard tests/sim/*_test.c))
MODELO := $(patsubst %.c,$(OUT)/obj/%.o,$(filter-out %_model.c,$(wildcard tests/model/*.c)))
MODEL := $(patsubst %.c,$(OUT)/%,$(wildcard tests/model/*_model.c))
TOOLS := $(patsubst %.c,$(OUT)/%,$(wildcard tests/*/*_tool.c) $(wildcard bench/*_bench.c))
FUZZ  := $(patsubst %.c,$(OUT)/%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZO := $(patsubst %.c,$(OUT)/obj/%.o,$(filter-out %_fuzz.c,$(wildcard tests/fuzz/*.c)))
FUZZ_SECONDS ?= 15
# Unit tests of code that several threads run, for ThreadSanitizer.
THREADED := base_% rpc_% metrics% config%
PROGS := $(if $(wildcard volmgr/holdfastd.c),$(OUT)/holdfastd) $(if $(CLIO),$(OUT)/holdfast)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Asked once, and only when something is compiled: `make deps` must work before pkg-config is there.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)
CFLAGS   = -std=gnu17 $(OPT) -g -fno-omit-frame-pointer -Wall -Wextra -Werror -Wstrict-prototypes \
	-Wmissing-prototypes -Wshadow -Wvla -D_GNU_SOURCE -I. -I$(OUT)/gen \
	$(SAN) $(PKG_CFLAGS)
LDLIBS   = -Wl,--as-needed $(PKG_LIBS) -llmdb -laio -lpthread -lm
TESTLIBS := -lcriterion -lnbd -lseccomp
ifneq ($(findstring thread,$(SAN)),)
CFLAGS  += -DTEST_OWN_RUNNER
TESTLIBS := -lnbd -lseccomp
endif

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: deps all units up down check check-fast check-asan check-tsan check-long model crash bench fuzz \
	format lint install clean

all: $(PROGS)
units: $(UNIT) $(SIM) $(MODEL) $(TOOLS)

deps: $(OUT)/.deps
$(OUT)/.deps: Makefile
	@mkdir -p $(@D)
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 $(PACKAGES); }
	@touch $@

# Rewritten only when it changes, and only one object includes it.
$(OUT)/gen/version_gen.h: FORCE
	@mkdir -p $(@D)
	@printf '#define HF_VERSION "%s"\n#define HF_BUILD_FLAGS "%s"\n' '$(VERSION)' '$(strip $(OPT) $(SAN))' >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(OUT)/obj/base/version.o: $(OUT)/gen/version_gen.h
.PHONY: FORCE

$(OUT)/gen/%.pb-c.c: %.proto
	@mkdir -p $(OUT)/gen
	$(say) PROTO $@
	$(Q)protoc-c --c_out=$(OUT)/gen $<
$(OUT)/obj/gen/%.o: $(OUT)/gen/%.c
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(CC) $(CFLAGS) -Wno-error -c -o $@ $<
$(OUT)/obj/%.o: %.c | $(GENC) $(TGENC)
	@mkdir -p $(@D)
	$(say) CC $@
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
$(OUT)/libholdfast.a: $(LIBO)
$(OUT)/libtestproto.a: $(TGENO)
$(OUT)/libsim.a: $(SIMO)
$(OUT)/libfuzz.a: $(FUZZO)
$(OUT)/lib%.a:
	@mkdir -p $(@D)
	@rm -f $@
	@ar rcs $@ $^
# $(call link,LIBRARIES): one program of what it depends on.
define link
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(1)
endef
$(OUT)/holdfastd: $(OUT)/obj/volmgr/holdfastd.o $(OUT)/libholdfast.a
	$(call link,$(LDLIBS))
$(OUT)/holdfast: $(CLIO) $(OUT)/libholdfast.a
	$(call link,$(LDLIBS))
$(OUT)/tests/unit/%: $(OUT)/obj/tests/unit/%.o $(OUT)/libtestproto.a $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) $(TESTLIBS))
$(OUT)/tests/sim/%: $(OUT)/obj/tests/sim/%.o $(OUT)/libsim.a $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) $(TESTLIBS))
$(OUT)/tests/history/%: $(OUT)/obj/tests/history/%.o $(OUT)/libsim.a $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) $(TESTLIBS))
$(OUT)/tests/model/%: $(OUT)/obj/tests/model/%.o $(MODELO)
	$(call link)
$(OUT)/tests/system/%: $(OUT)/obj/tests/system/%.o $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) -lnbd -lseccomp)
$(OUT)/bench/%: $(OUT)/obj/bench/%.o $(OUT)/libsim.a $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) -lnbd)
$(OUT)/tests/fuzz/%: $(OUT)/obj/tests/fuzz/%.o $(OUT)/libfuzz.a $(OUT)/libholdfast.a
	$(call link,$(LDLIBS) -fsanitize=fuzzer)

# Each check installs what is missing before a second make asks pkg-config about it.
SYSTEM := $(wildcard tests/system/*_test.sh)
AGAIN  := +@$(MAKE) --no-print-directory
check:
	$(AGAIN) deps
	$(AGAIN) all units
	@tests/run.sh $(UNIT) $(SIM) $(MODEL) $(SYSTEM)
check-fast:
	$(AGAIN) deps
	$(AGAIN) $(UNIT)
	@tests/run.sh $(UNIT)
check-asan:
	$(AGAIN) deps
	$(AGAIN) OUT=build/asan SAN="-fsanitize=address,undefined -fno-sanitize-recover=all" check-built
check-tsan:
	$(AGAIN) deps
	$(AGAIN) OUT=build/tsan SAN=-fsanitize=thread check-threads
check-long:
	$(AGAIN) check KILL_RING_LAPS=10
	$(AGAIN) check-asan
	$(AGAIN) check-tsan
	$(AGAIN) model
	$(AGAIN) crash CRASH_SECONDS=900
	$(AGAIN) fuzz FUZZ_SECONDS=60
# Every crash of every small workload of the store: hours. CRASH_SECONDS cuts it short.
CRASH_SECONDS ?= 0
crash:
	$(AGAIN) deps
	$(AGAIN) $(OUT)/tests/sim/store_crash_test
	@seq 0 $$(($$(nproc) - 1)) | xargs -P 0 -I @ $(OUT)/tests/sim/store_crash_test --full \
		--seconds $(CRASH_SECONDS) --part @/$$(nproc)
model:
	$(AGAIN) deps
	$(AGAIN) $(MODEL)
	@LIMIT_S=3600 RUN_ARGS=--full tests/run.sh $(MODEL)
fuzz:
	$(AGAIN) deps
	$(AGAIN) CC=clang-14 OUT=build/fuzz fuzz-built \
		SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
.PHONY: check-built check-threads fuzz-built lint-tidy
fuzz-built: $(FUZZ)
	@tests/fuzz/run.sh $(FUZZ_SECONDS) $^
check-built: $(UNIT) $(SIM)
	@tests/run.sh $^
check-threads: $(filter $(patsubst %,$(OUT)/tests/unit/%_test,$(THREADED)),$(UNIT))
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp tests/run.sh $^

up:
	$(AGAIN) deps
	$(AGAIN) all
	@cli/demo.sh $(OUT)
down:
	@test ! -x $(OUT)/holdfast || $(OUT)/holdfast --dir $(OUT)/cluster down
# BENCH_ARGS=--quick for a look; see the head of bench/run.sh.
bench:
	$(AGAIN) deps
	$(AGAIN) all $(patsubst %.c,$(OUT)/%,$(wildcard bench/*_bench.c))
	@bench/run.sh $(BENCH_ARGS)
format:
	clang-format -i $$(git ls-files '*.[ch]')
# Layout: the lines changed since LINT_BASE, committed or not. Checks: .clang-tidy.
LINT_BASE ?= HEAD
lint:
	$(AGAIN) deps
	@test -z "$$(git clang-format --diff --quiet $(LINT_BASE) -- '*.c' '*.h' | tee /dev/stderr)"
	$(AGAIN) $(GENC) lint-tidy
lint-tidy: $(patsubst %,lint/%,$(LIBC) $(wildcard cli/*.c))
lint/%: %
	$(say) LINT $<
	$(Q)clang-tidy --quiet $< -- $(CFLAGS) 2>/dev/null
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/doc/holdfast
	install $(PROGS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 LICENSE $(wildcard README.md docs/*.md) $(DESTDIR)$(PREFIX)/share/doc/holdfast
clean:
	rm -rf $(OUT)

-include $(shell find $(OUT)/obj -name '*.d' 2>/dev/null)
