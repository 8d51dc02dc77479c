# shellcheck shell=bash
# What run-all.sh is made of: parts with a share of the time, and steps that are run, timed and written down.
#
# Needs: this folder, that of the report, that of the run's records, and seconds since the shell's start.
: "${here:?}" "${out:?}" "${work:?}" "${budget:?}"

part=        # the part whose steps come now
part_end=0   # when its time is over, in seconds since the shell's start
verdict=     # a function that may think otherwise of a step than its exit status; prints an outcome
note=        # a remark on the step
outcome=     # of the last step
child=       # the process that runs now
well=0       # steps that passed
unwell=0     # steps that failed or ran out of time

# part NAME PERCENT: begins a part that may take so much of the budget, or a minute if that is more.
part() {
    local share=$((budget * $2 / 100))
    ((share >= 60)) || share=60
    part=$1
    part_end=$((SECONDS + share))
    ((part_end <= budget)) || part_end=$budget
}

# fact NAME VALUE: a line of the report's table of the machine.
fact() {
    printf '%s\t%s\n' "$1" "${2//$'\t'/ }" >>"$work/facts.tsv"
}

moment() {
    date '+%Y/%m/%d %H:%M:%S.%3N'
}

# record NAME STATUS MILLISECONDS BEGIN LOG: writes the step down with the outcome and the note, and the report anew, so
# that it is there should the rest be cut off.
record() {
    local end
    end=$(moment)
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' \
        "$part" "$1" "$outcome" "$2" "$3" "$4" "$end" "$5" "${note//$'\t'/ }" >>"$work/steps.tsv"
    printf '%4d s  %-10s %-10s %s%s\n' "$SECONDS" "$part" "$outcome" "$1" "${note:+ ($note)}"
    report
}

report() {
    "$here/xtask" on-device report "$work" "$out"
}

# skip NAME WHY
skip() {
    outcome=skipped note=$2
    record "$1" - 0 "$(moment)" -
    note=
}

# step NAME LEAST COMMAND...: runs a command within what is left of the part's time, unless that is less than LEAST
# seconds. Its output goes into a log.
step() {
    local name=$1 least=$2 limit log begin started took status
    shift 2
    limit=$((part_end - SECONDS))
    if ((limit < least)); then
        skip "$name" "no time left"
        return 1
    fi
    log=$part-${name//[^A-Za-z0-9_]/-}.log
    begin=$(moment)
    started=$(date +%s%3N)
    # In the background, so that a signal to this script is heard at once.
    timeout -k 5 "$limit" "$@" >"$work/logs/$log" 2>&1 </dev/null &
    child=$!
    wait "$child"
    status=$?
    child=
    took=$(($(date +%s%3N) - started))
    if ((status == 0)); then
        outcome=passed
    elif ((status == 124 || took >= limit * 1000)); then
        outcome='timed out'
    else
        outcome=failed
    fi
    [[ -z $verdict ]] || outcome=$("$verdict" "$outcome" "$work/logs/$log")
    case $outcome in
        passed) well=$((well + 1)) ;;
        failed | 'timed out') unwell=$((unwell + 1)) ;;
    esac
    record "$name" "$status" "$took" "$begin" "$log"
    note=
    [[ $outcome == passed ]]
}

# programs FOLDER [gpu|cpu]: the manifest's lines of a kind.
programs() {
    local path place rest
    while IFS=$'\t' read -r path place rest; do
        [[ $path == "$1"/* && ($# == 1 || $place == "$2") ]] && printf '%s\t%s\t%s\n' "$path" "$place" "$rest"
    done <"$here/manifest.tsv"
}

# first COMMAND...: the first line that a command prints, or nothing.
first() {
    timeout 60 "$@" 2>/dev/null </dev/null | head -n 1
}
