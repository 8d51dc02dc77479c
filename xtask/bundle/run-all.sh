#!/usr/bin/env bash
# Runs what is in this folder on a machine with a GPU, most valuable first, and writes a report: see README.md.
set -u
export LC_ALL=C

usage() {
    cat <<'END'
usage: ./run-all.sh OUT [--quick] [--budget SECONDS] [--pack]

  OUT               a folder for report.md, results.json, results.tar.gz and, loose, work/
  --quick           fewer cases, shorter measurements
  --budget SECONDS  what no longer fits is skipped, and named in the report; 540 if not given
  --pack            leave no loose files in OUT: work/ only as results.tar.gz
END
}

die() {
    printf 'run-all.sh: %s\n' "$1" >&2
    exit 2
}

out='' quick='' pack='' budget=540
while (($# > 0)); do
    case $1 in
        --quick) quick=yes ;;
        --pack) pack=yes ;;
        --budget) budget=${2-} && shift ;;
        --help | -h) usage && exit 0 ;;
        -*) usage >&2 && die "unknown option $1" ;;
        *) [[ -z $out ]] || die "one folder for the results is enough: $out, $1" && out=$1 ;;
    esac
    shift
done
[[ -n $out ]] || { usage >&2 && exit 2; }
[[ $budget =~ ^[1-9][0-9]*$ ]] || die "--budget takes seconds, not '$budget'"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || die "cannot enter the bundle's folder"
for tool in timeout tar date; do
    command -v "$tool" >/dev/null || die "this machine has no '$tool'"
done
mkdir -p -- "$out" || exit 2
out=$(cd -- "$out" && pwd) || exit 2
[[ ! -e $out/report.md ]] || die "$out has results already: name another folder"
scratch=$(mktemp -d) || die "cannot make a temporary folder"
work=$out/work
[[ -z $pack ]] || work=$scratch/work
mkdir -p "$work/logs" || exit 2
cp "$here/VERSION" "$work/" || exit 2
: >"$work/facts.tsv" && : >"$work/steps.tsv"
cd "$here" || exit 2
# shellcheck source-path=SCRIPTDIR
source ./steps.sh

export RUST_BACKTRACE=0 TWOFOUR_REQUIRE_GPU=1 TWOFOUR_CACHE_DIR=$scratch/cache CRITERION_HOME=$work/criterion
[[ -z $quick ]] || export PROPTEST_CASES=32

# ---------------------------------------------------------------- the machine

# Clocks and power once a second, to tell what the device did during a step.
sampler=
watch_clocks() {
    nvidia-smi --id=0 --format=csv,noheader,nounits -l 1 \
        --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu >"$work/clocks.csv" 2>/dev/null &
    sampler=$!
}

device_facts() {
    local names values i
    if ! command -v nvidia-smi >/dev/null; then
        fact nvidia-smi "not found: clocks and power are not known"
        return
    fi
    timeout 30 nvidia-smi -q --id=0 >"$work/nvidia-smi-before.txt" 2>&1
    { IFS=, read -ra names && IFS=, read -ra values; } < <(timeout 30 nvidia-smi --id=0 --format=csv --query-gpu="$(
        printf '%s,' name driver_version vbios_version clocks.sm clocks.mem clocks.max.sm clocks.max.mem power.draw \
            power.limit temperature.gpu memory.total memory.used ecc.mode.current persistence_mode
    )mig.mode.current" 2>/dev/null)
    for i in "${!names[@]}"; do
        fact "${names[i]# }" "${values[i]# }"
    done
    watch_clocks
}

machine_facts() {
    fact system "$(uname -srm)"
    fact "C library" "$(first getconf GNU_LIBC_VERSION)"
    fact processor "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    fact "processors to use" "$(first nproc)"
    fact "memory" "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
    fact "load before" "$(cut -d ' ' -f 1-3 /proc/loadavg)"
}

# Python with a PyTorch that sees the device, and the folders where wheels have CUDA's libraries.
python=
find_python() {
    local candidate said
    for candidate in "${PYTHON-}" python3 python; do
        command -v "${candidate:-no-python}" >/dev/null || continue
        said=$(first "$candidate" -c 'if True:
            import sys, torch
            state = "sees the device" if torch.cuda.is_available() else "sees no device"
            print(f"{torch.__version__}, CUDA {torch.version.cuda}, {state}; Python {sys.version.split()[0]}")')
        fact "PyTorch of $candidate" "${said:-not there}"
        [[ $said == *"sees the device"* ]] && python=$candidate && return
    done
}

# Libraries that are not on the loader's path: in Python's wheels first, as PyTorch has them, then in a toolkit.
find_libraries() {
    local folder found='' interpreter=${python:-python3}
    while read -r folder; do
        [[ -d $folder ]] && found+=:$folder
    done < <(
        timeout 20 "$interpreter" -c 'if True:
            import glob, sys
            for path in sys.path:
                print(*glob.glob(f"{path}/nvidia/*/lib"), sep="\n")' 2>/dev/null
        printf '%s/lib64\n' "${CUDA_HOME:-/usr/local/cuda}"
    )
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH-}$found
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH#:}
    fact "libraries from" "${found#:}"
}

# ---------------------------------------------------------------- the parts

# take ARGUMENTS REMARK: the manifest's arguments of a program, as words.
words=()
take() {
    words=()
    [[ $1 == - ]] && return
    read -ra words <<<"$1"
    note="with '$1': $2"
}

# tests gpu|cpu: the test programs that use a GPU, or the others.
tests() {
    local path arguments remark
    while IFS=$'\t' read -r path _ arguments remark; do
        take "$arguments" "$remark"
        step "$path" 5 "./$path" --show-output "${words[@]}"
    done < <(programs tests "$1")
}

# The outcome of a sanitizer's run: without its summary it was no run.
sanitizer_verdict() {
    if grep -Eq 'Device not supported|before first instrumented API call' "$2"; then
        echo unavailable
    elif [[ $1 == passed ]] || grep -q ' SUMMARY: ' "$2"; then
        echo "$1"
    else
        echo unavailable
    fi
}

sanitizers() {
    local sanitizer='' candidate tool path options filters cases=16
    [[ -z $quick ]] || cases=4
    for candidate in compute-sanitizer "${CUDA_HOME:-/usr/local/cuda}"/{bin,compute-sanitizer}/compute-sanitizer; do
        [[ -z $sanitizer ]] && command -v "$candidate" >/dev/null && sanitizer=$candidate
    done
    if [[ -z $sanitizer ]]; then
        skip compute-sanitizer "not found"
        return
    fi
    fact compute-sanitizer "$(timeout 20 "$sanitizer" --version 2>/dev/null | grep -i version)"
    for tool in memcheck racecheck initcheck synccheck; do
        options=(--tool "$tool" --error-exitcode 86 --print-limit 20)
        # The tests judge what the driver returns; some ask for what it must refuse.
        [[ $tool != memcheck ]] || options+=(--report-api-errors no)
        while IFS=$'\t' read -r path _; do
            # Tests that run on a GPU alone, where their names tell; else all but the emulator's, which has signals.
            filters=(gpu real_device)
            "./$path" --list 2>/dev/null | grep -Eq 'gpu|real_device' || filters=(--skip emulated)
            verdict=sanitizer_verdict
            step "$tool $path" 10 env PROPTEST_CASES=$cases "$sanitizer" "${options[@]}" \
                "./$path" --show-output "${filters[@]}"
            verdict=
            [[ $outcome != unavailable ]] || return
        done < <(programs tests gpu)
        # Every way to a product in tiny shapes, and two streams. (The other tools would judge cuBLASLt's kernels, too.)
        [[ $tool == memcheck ]] || continue
        verdict=sanitizer_verdict
        step "$tool benches/matmul" 10 env TWOFOUR_BENCH=smoke CRITERION_HOME="$scratch/criterion" \
            "$sanitizer" "${options[@]}" ./benches/matmul --bench '/(hot|cold)$'
        step "$tool examples/overlap" 10 "$sanitizer" "${options[@]}" \
            ./examples/overlap --width 256 --tokens 160 --layers 3 --steps 2
        verdict=
    done
}

# benches gpu|cpu: the benches there, which the ends of their names tell.
benches() {
    local path there='/cpu$' speed=(--warm-up-time 0.3 --measurement-time 1 --nresamples 20000)
    [[ $1 == cpu ]] || there='/(hot|cold)$'
    [[ -z $quick ]] || speed=(--sample-size 10 --warm-up-time 0.1 --measurement-time 0.2 --nresamples 5000)
    # The usual extent is for those who have the time.
    if [[ -n $quick ]] || ((budget < 1800)); then local -x TWOFOUR_BENCH=quick; fi
    while IFS=$'\t' read -r path _; do
        [[ $path != benches/peer ]] || continue
        if ! "./$path" --bench --list "$there" 2>/dev/null | grep -q ': benchmark$'; then
            skip "$path $1" "has no such bench"
            continue
        fi
        step "$path $1" 20 "./$path" --bench "${speed[@]}" "$there"
    done < <(programs benches)
}

examples() {
    local path arguments remark
    while IFS=$'\t' read -r path _ arguments remark; do
        take "$arguments" "$remark"
        step "$path" 5 "./$path" "${words[@]}"
    done < <(programs examples)
}

# One comparison: shape, logits:weights and, for another op than masks alone, its option and, where it has them, tokens.
peers_of() {
    local what="$1 $2${3:+ ${3#--}}${4:+ T=$4}"
    local name=${what//[ :=]/-}
    step "peers $what" 60 "$python" benches/peers/peers.py --device cuda --ours "$here/benches/peer" \
        --json "$work/peers-$name.json" --shapes "$1" --types "$2" ${3:+"$3"} ${4:+--tokens "$4"} \
        --rounds 10 --budget 20 ${quick:+--quick}
}

# Comparisons with PyTorch, the most telling ones first.
peers() {
    if [[ -z $python ]]; then
        skip peers "no Python with a PyTorch that sees the device"
        return
    fi
    peers_of 4096x4096 f32:bf16
    peers_of 4096x4096 f32:bf16 --linear 4096
    peers_of 4096x4096 f32:bf16 --linear 16
    peers_of 4096x4096 bf16:bf16 --pack
    peers_of 4096x4096 bf16:bf16 --sparse 16
    [[ -z $quick ]] || return
    peers_of 14336x4096 f32:bf16 --linear 4096
    peers_of 14336x4096 bf16:bf16 --pack
    peers_of 4096x4096 bf16:bf16 --sparse 4096
    peers_of 4096x4096 bf16:bf16 --linear 4096
    peers_of 4096x4096 f32:f32
    peers_of 4096x4096 bf16:bf16
    peers_of 4096x14336 f32:bf16
}

# ---------------------------------------------------------------- in order

finish() {
    [[ -z $child ]] || kill "$child" 2>/dev/null
    [[ -z $sampler ]] || kill "$sampler" 2>/dev/null
    [[ -z $sampler ]] || timeout 30 nvidia-smi -q --id=0 >"$work/nvidia-smi-after.txt" 2>&1
    report
    tar -czf "$out/results.tar.gz" -C "$work" . && printf 'report: %s\n' "$out/report.md"
    rm -rf -- "$scratch"
}

./xtask on-device probe >"$work/device.json" 2>"$work/logs/probe.log"
probed=$?
if ((probed != 0 && probed != 3)); then
    cat "$work/logs/probe.log" >&2
    rm -rf -- "$scratch"
    die "the programs of this bundle do not run on this machine; they need $(grep ^needs VERSION | cut -f 2)"
fi
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
machine_facts
if ((probed == 3)); then
    printf 'NO GPU: nothing was run, and nothing is claimed. %s\n' "$(<"$work/device.json")" >&2
    exit 3
fi
device_facts
find_python
find_libraries

part tests 30 && tests gpu
part sanitizer 20 && sanitizers
part benches 25 && benches gpu
part examples 10 && examples
part tests 10 && tests cpu
part peers 100 && peers
part benches 100 && benches cpu
printf '%s\n' "$SECONDS" >"$work/finished"
((well > 0 && unwell == 0))
