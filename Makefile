# rtlaunch. `make demo` and `make test` are all that a bare Debian 12 needs, as root.
# FLAVOUR is release, asan or tsan; everything that is built goes under build/FLAVOUR.
FLAVOUR ?= release
OUT := build/$(FLAVOUR)
CXX := $(if $(shell command -v ccache 2>/dev/null),ccache )g++

COMMON := -std=c++20 -g1 -I. -Wall -Wextra -Wshadow -Werror -pthread -fno-strict-aliasing
FLAGS_release := -O2 -ffunction-sections -D_FORTIFY_SOURCE=2 -fstack-protector-strong
# GCC 12 warns of what is no fault of ours (std::regex) when it adds checks, and TSan of the fences of
# Asio, whose programs have one thread.
FLAGS_asan := -O1 -Wno-maybe-uninitialized -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# For fuzzers: the parsers also say where they have been.
FLAGS_fuzz = $(FLAGS_asan)
FLAGS_tsan := -O1 -Wno-maybe-uninitialized -Wno-tsan -fsanitize=thread -fno-omit-frame-pointer
CXXFLAGS := $(COMMON) $(FLAGS_$(FLAVOUR))

FOLDERS := isolation/sys config isolation installers/store installers launcher
SOURCES := $(foreach f,$(FOLDERS),$(wildcard $(f)/*.cc))
MAINS := $(filter %_main.cc,$(SOURCES))
TESTS := $(filter %_test.cc,$(SOURCES))
FUZZERS := $(filter %_fuzz.cc,$(SOURCES))
PARTS := $(filter-out $(MAINS) $(TESTS) $(FUZZERS),$(SOURCES))
object = $(patsubst %.cc,$(OUT)/obj/%.o,$(1))

# The launcher is static: no loader, no NSS, nothing of a layer's is ever loaded into it. What only
# a build needs (curl, archives, SQLite) is in rtlaunch-build, which runs when a layer is missing.
STATIC_release := -static -Wl,-z,max-page-size=0x200000
LAZY_release := -Wl,--wrap=OPENSSL_cpuid_setup -Wl,-u,OPENSSL_cpuid_setup
QUICK_release := tools/quick-start
# Most of a start is page faults: these programs are mapped in pages of 2 MiB.
WHOLE = tools/whole $@
# And what a start executes lies side by side in them; the maps are what tools/order-code reads.
LINKED = $(filter %.o %.a,$^)
ORDER_release = -Wl,--gc-sections,-T,tools/order.ld,-Map,$(OUT)/$(@F).map
NET_LIBS := -lnl-route-3 -lnl-3
NAMELESS := $(foreach f,getaddrinfo getprotobynumber getprotobyname,-Wl,--wrap=$(f))
LAUNCH_LIBS := -lyaml-cpp -lcrypto -lcap -lseccomp $(NET_LIBS)
# In the wheel, what is loaded lies beside the programs.
BESIDE := -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib'
BUILD_LIBS := -lyaml-cpp -lcurl -larchive -ldeflate -lisal -lsqlite3 -lssl -lcrypto -lcap -lseccomp $(NET_LIBS)
TEST_LIBS := $(BUILD_LIBS) -lz -lgtest -lgmock

# Ray's agent has libraries of its own, which the archive's programs must not need.
RAY_SOURCES := $(wildcard launcher/ray/*.cc)
RAY_TESTS := $(filter %_test.cc,$(RAY_SOURCES))
RAY_PARTS := $(filter-out %_main.cc $(RAY_TESTS),$(RAY_SOURCES))
GENERATED := $(OUT)/generated
RAY_MESSAGES := $(GENERATED)/launcher/ray/runtime_env_agent.pb
RAY_LIBS := -lprotobuf-lite $(LAUNCH_LIBS)
$(call object,isolation/net_link.cc isolation/net_rules.cc): CXXFLAGS += -isystem /usr/include/libnl3
$(call object,$(RAY_SOURCES)): CXXFLAGS += -isystem $(GENERATED)

# What Python loads to be a zygote: isolation/, as code that may lie anywhere, in the programs too. Without
# it there are no zygotes, and with a sanitizer Python couldn't load it.
ZYGOTE_PARTS := $(filter isolation/%.cc $(filter-out config/conda.cc config/yaml.cc config/runtime_env.cc,$(wildcard config/*.cc)),$(PARTS)) launcher/zygote_wire.cc launcher/zygote/library.cc
$(call object,$(ZYGOTE_PARTS)): CXXFLAGS += -fPIC -fvisibility=hidden -ffunction-sections
ZYGOTE_release := $(OUT)/bin/rtlaunch-zygote.so $(OUT)/bin/rtlaunch-zygote.py

PROGRAMS := $(OUT)/bin/rtlaunch $(OUT)/bin/rtlaunchd $(OUT)/bin/rtlaunch-build $(OUT)/bin/rtlaunch-spawner \
  $(OUT)/bin/rtlaunch-agent $(OUT)/bin/rtlaunch-ray-grpc $(ZYGOTE_$(FLAVOUR)) \
  $(OUT)/bin/rtlaunch-conda.py $(OUT)/bin/rtlaunch-uv-run.py
TEST_PROGRAMS := $(patsubst %.cc,$(OUT)/test/%,$(TESTS) $(RAY_TESTS))
GUESTS := $(patsubst tests/guests/%.c,$(OUT)/guests/%,$(wildcard tests/guests/*.c))

.PHONY: all build fetched wheel demo demo-ray test unit e2e soak test-vm asan tsan fuzz bench lint fmt install setup clean
all: build

setup:
	@tools/setup

build: $(PROGRAMS) fetched

fetched:
	@tools/fetch-tools $(OUT)/bin

# For `pip install` beside Ray.
WHEEL := build/.wheel-$(FLAVOUR)
wheel: build $(WHEEL)

$(WHEEL): tools/make-wheel $(shell find launcher/ray/python -name '*.py') $(PROGRAMS) | fetched
	@tools/make-wheel $(OUT)/bin build
	@touch $@

$(OUT)/obj/%.o: %.cc
	@mkdir -p $(@D)
	@echo "  CXX $<"
	@$(CXX) $(CXXFLAGS) -MMD -MP -c $< -o $@

# The system call filters are compiled here, not at every start.
FILTERS := $(GENERATED)/isolation/shipped_filters.inc
FILTER_PARTS := $(filter isolation/sys/%,$(PARTS)) isolation/controls.cc isolation/seccomp.cc isolation/seccomp_rules.cc
$(OUT)/make-filters: $(call object,isolation/seccomp_main.cc $(FILTER_PARTS))
	@g++ $(CXXFLAGS) $^ -o $@ -lseccomp

$(FILTERS): $(OUT)/make-filters
	@mkdir -p $(@D)
	@$< > $@.part && mv $@.part $@

$(call object,isolation/seccomp_shipped.cc): CXXFLAGS += -isystem $(GENERATED)
$(call object,isolation/seccomp_shipped.cc): $(FILTERS)

# An index that nobody has named is the one that uv would take.
DEFAULT_INDEX := $(GENERATED)/installers/default_index.inc
$(DEFAULT_INDEX): tools/fetch-tools | fetched
	@mkdir -p $(@D)
	@$(OUT)/bin/uv help pip install | sed -n 's/.*(by default: <\(.*\)>).*/"\1"/p' > $@.part
	@test -s $@.part && mv $@.part $@

$(call object,installers/index.cc): CXXFLAGS += -isystem $(GENERATED)
$(call object,installers/index.cc): $(DEFAULT_INDEX)

$(OUT)/bin/rtlaunch-zygote.so: $(call object,$(ZYGOTE_PARTS))
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ -shared $(CXXFLAGS) -static-libstdc++ -static-libgcc -Wl,--gc-sections,--exclude-libs,ALL,-Bsymbolic,-z,now \
	  $^ -o $@ $(BESIDE) -Wl,--as-needed -lcap -lseccomp $(NET_LIBS)

$(OUT)/bin/rtlaunch-zygote.py: launcher/zygote/zygote.py
	@mkdir -p $(@D)
	@cp $< $@

$(OUT)/bin/rtlaunch-conda.py: installers/conda_solver.py
	@mkdir -p $(@D)
	@cp $< $@

$(OUT)/bin/rtlaunch-uv-run.py: installers/uv_run.py
	@mkdir -p $(@D)
	@cp $< $@

$(OUT)/librtlaunch.a: $(call object,$(PARTS))
	@rm -f $@ && ar qcs $@ $^

$(OUT)/bin/rtlaunch: $(call object,launcher/launch_main.cc) $(OUT)/librtlaunch.a tools/order.ld | tools/quick-start tools/whole
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(STATIC_$(FLAVOUR)) $(ORDER_$(FLAVOUR)) $(LAZY_$(FLAVOUR)) $(NAMELESS) $(LINKED) -o $@ $(LAUNCH_LIBS)
	@$(if $(QUICK_$(FLAVOUR)),$(QUICK_$(FLAVOUR)) $@)
	@$(WHOLE)

$(OUT)/bin/rtlaunchd: $(call object,launcher/daemon_main.cc) $(OUT)/librtlaunch.a tools/order.ld | tools/whole
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(STATIC_$(FLAVOUR)) $(ORDER_$(FLAVOUR)) $(NAMELESS) $(LINKED) -o $@ $(LAUNCH_LIBS)
	@$(WHOLE)

$(OUT)/bin/rtlaunch-build: $(call object,launcher/build_main.cc) $(OUT)/librtlaunch.a
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(BESIDE) $^ -o $@ $(BUILD_LIBS)

$(OUT)/bin/rtlaunch-spawner: $(call object,launcher/spawner_main.cc) $(OUT)/librtlaunch.a tools/order.ld | tools/whole
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(STATIC_$(FLAVOUR)) $(ORDER_$(FLAVOUR)) $(NAMELESS) $(LINKED) -o $@ $(LAUNCH_LIBS)
	@$(WHOLE)

$(GENERATED)/%.pb.cc $(GENERATED)/%.pb.h: %.proto
	@mkdir -p $(GENERATED)
	@echo "  PROTOC $<"
	@protoc --cpp_out=$(GENERATED) $<

$(OUT)/obj/%.pb.o: $(GENERATED)/%.pb.cc
	@mkdir -p $(@D)
	@echo "  CXX $<"
	@$(CXX) $(CXXFLAGS) -w -isystem $(GENERATED) -c $< -o $@

$(call object,$(RAY_SOURCES)): | $(RAY_MESSAGES).h

$(OUT)/librtlaunch-ray.a: $(call object,$(RAY_PARTS)) $(OUT)/obj/launcher/ray/runtime_env_agent.pb.o
	@rm -f $@ && ar qcs $@ $^

$(OUT)/bin/rtlaunch-agent: $(call object,launcher/ray/agent_main.cc) $(OUT)/librtlaunch-ray.a $(OUT)/librtlaunch.a
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(STATIC_$(FLAVOUR)) $^ -o $@ $(RAY_LIBS)

$(OUT)/bin/rtlaunch-ray-grpc: $(call object,launcher/ray/grpc_main.cc)
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $^ -o $@ -lgrpc++ -lgrpc -lgpr -labsl_synchronization

$(OUT)/test/launcher/ray/%: $(OUT)/obj/launcher/ray/%.o $(OUT)/librtlaunch-ray.a $(OUT)/librtlaunch.a
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $^ -o $@ $(TEST_LIBS) -lprotobuf-lite -lgtest_main

$(OUT)/test/%: $(OUT)/obj/%.o $(OUT)/librtlaunch.a
	@mkdir -p $(@D)
	@echo "  LINK $@"
	@g++ $(CXXFLAGS) $(filter %.o,$^) $(filter %.a,$^) -o $@ $(TEST_LIBS) -lgtest_main

$(OUT)/test/launcher/fuzz_test: $(call object,$(FUZZERS))
ifeq ($(FLAVOUR),fuzz)
$(call object,$(filter config/% installers/% launcher/% isolation/spec_wire.cc,$(PARTS))): CXXFLAGS += -fsanitize-coverage=trace-pc
endif

$(OUT)/guests/%: tests/guests/%.c
	@mkdir -p $(@D)
	@gcc -O1 -Wall -static $< -o $@

tests: $(TEST_PROGRAMS) $(GUESTS)

test: setup
	@$(MAKE) --no-print-directory -j$$(nproc) wheel tests
	@tools/run-tests --out $(OUT) --all

unit: tests build
	@tools/run-tests --out $(OUT) --unit

e2e: wheel $(GUESTS)
	@tools/run-tests --out $(OUT) --e2e

# The tests of faults at full length; with FLAVOUR=asan or tsan ten minutes under the sanitizer.
soak: setup
	@$(MAKE) --no-print-directory -j$$(nproc) build $(GUESTS)
	@tools/soak $(OUT)

demo: setup
	@$(MAKE) --no-print-directory -j$$(nproc) build
	@tools/demo $(OUT)/bin

demo-ray: setup
	@$(MAKE) --no-print-directory -j$$(nproc) wheel
	@tools/demo-ray $(OUT)/bin

bench: setup
	@tools/setup podman runc umoci
	@$(MAKE) --no-print-directory -j$$(nproc) wheel $(OUT)/test/isolation/net_test
	@tools/bench $(OUT)/bin build

# The unit tests again with the sanitizers, each in a tree of its own.
asan tsan: setup
	@$(MAKE) --no-print-directory -j$$(nproc) FLAVOUR=$@ build tests
	@tools/run-tests --out build/$@ --unit

# The parsers fed with whatever (launcher/fuzz_test.cc), FUZZ_SECONDS each.
FUZZ_SECONDS ?= 60
fuzz: setup
	@$(MAKE) --no-print-directory -j$$(nproc) FLAVOUR=fuzz build/fuzz/test/launcher/fuzz_test
	@RTLAUNCH_FUZZ_SECONDS=$(FUZZ_SECONDS) build/fuzz/test/launcher/fuzz_test

# On Debian's own kernel (6.1), in an emulated machine.
test-vm: setup
	@$(MAKE) --no-print-directory -j$$(nproc) build tests
	@tools/test-vm $(OUT)

lint: setup $(RAY_MESSAGES).h $(FILTERS) $(DEFAULT_INDEX)
	@tools/lint

fmt: setup
	@clang-format -i $(SOURCES) $(RAY_SOURCES) $(foreach f,$(FOLDERS) launcher/ray tests/guests,$(wildcard $(f)/*.h))

PREFIX ?= /usr/local
install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/rtlaunch
	install $(OUT)/bin/rtlaunch-build $(OUT)/bin/uv $(DESTDIR)$(PREFIX)/libexec/rtlaunch/
	tools/whole $(OUT)/bin/rtlaunch-spawner $(DESTDIR)$(PREFIX)/libexec/rtlaunch/rtlaunch-spawner
	install -m 644 $(OUT)/bin/packaging.whl $(OUT)/bin/rtlaunch-conda.py $(OUT)/bin/rtlaunch-uv-run.py $(ZYGOTE_$(FLAVOUR)) $(DESTDIR)$(PREFIX)/libexec/rtlaunch/
	cp -r $(OUT)/bin/rattler $(DESTDIR)$(PREFIX)/libexec/rtlaunch/
	tools/whole $(OUT)/bin/rtlaunch $(DESTDIR)$(PREFIX)/bin/rtlaunch
	install -d $(DESTDIR)$(PREFIX)/share/rtlaunch
	$(OUT)/bin/rtlaunch policy schema > $(DESTDIR)$(PREFIX)/share/rtlaunch/policy.schema.json
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install $(OUT)/bin/rtlaunch-agent $(OUT)/bin/rtlaunch-ray-grpc $(DESTDIR)$(PREFIX)/libexec/rtlaunch/
	tools/whole $(OUT)/bin/rtlaunchd $(DESTDIR)$(PREFIX)/libexec/rtlaunch/rtlaunchd
	ln -sf ../libexec/rtlaunch/rtlaunchd $(DESTDIR)$(PREFIX)/sbin/rtlaunchd
	for unit in rtlaunchd.service rtlaunchd.socket; do \
	  sed 's|@LIBEXEC@|$(PREFIX)/libexec/rtlaunch|' launcher/systemd/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done

clean:
	rm -rf build

-include $(patsubst %.cc,$(OUT)/obj/%.d,$(SOURCES) $(RAY_SOURCES) launcher/zygote/library.cc)
.SECONDARY:
.PHONY: tests
