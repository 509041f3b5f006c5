#!/usr/bin/env python3
"""table.py - docs/reliability.md's table: each fault, what is promised, its tests, how they ended

SPDX-License-Identifier: Apache-2.0

    tests/faults/table.py NAME=RESULTS.xml [NAME=RESULTS.xml ...] [NAME=keep ...]

RESULTS.xml is what `ctest --output-junit` wrote (tests/run.sh leaves build/logs/NAME.xml; give ctest
--test-output-size-passed 1000000), or a file with the output of cmocka programs. "keep": that column as it
stands in the table now, measured elsewhere. A test belongs to a
fault when it is called test_ID_..., or stands in OTHERS below. Writes between the two marks of
docs/reliability.md and says how many faults have a test. Exit code 0: none of them failed.
"""
import html
import re
import sys
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

# id: what is done, what is promised
FAULTS = {
    "P1": ("encoder killed in each phase", "restarts at the encoder, one strike, others undisturbed"),
    "P2": ("dit killed while it computes", "goes on from the context; same bits"),
    "P3": ("dit killed when its latent is lent", "denoising is not repeated"),
    "P4": ("vae killed", "goes on from the latent; one strike"),
    "P5": ("mux killed", "no file under the final name; redone; the part is swept"),
    "P6": ("launcher killed", "stages gone in 1 s; what was accepted is finished by the next"),
    "P7": ("two processes killed together", "as each alone; no deadlock"),
    "P8": ("stage stopped", "dead within 4 s; a late SIGCONT changes nothing"),
    "P9": ("hung unit of work", "killed at its deadline, although it beats"),
    "P10": ("stage ends with 1 at start, again and again", "parked after 5 deaths in 60 s; jobs fail with the reason"),
    "P11": ("stage ends with 2", "parked at once, with its reason"),
    "P12": ("poison job", "buried after 2 deaths; the 10 behind it are made"),
    "P13": ("orphaned stage", "the next launcher refuses and names the process"),
    "P14": ("stop during work", "killed when stop_s is over; jobs go on after the next start"),
    "P15": ("random kills for long", "history and ledger are clean"),
    "G1": ("no device memory at start", "says who has it, waits, heals"),
    "G2": ("no memory in a job", "the job fails with figures; the stage lives"),
    "G3": ("illegal address on a card", "a new process works; borrowers go on"),
    "G4": ("NaN while denoising", "found in its step; the job fails and names it"),
    "G5": ("card lost", "parked, degraded, the launcher lives"),
    "D1": ("output disk full", "\"no space: needs X, has Y\"; no file; the next job is made"),
    "D2": ("journal disk full", "submit refused; running jobs can still end"),
    "D3": ("write or sync error", "nothing that was acknowledged is lost"),
    "D4": ("journal torn at every byte of its end", "starts; loses at most what was not acknowledged"),
    "D5": ("bit flipped in the middle of the journal", "refused with the offset; repair works"),
    "D6": ("output folder read-only, gone, a link", "refused or failed with the reason; nothing elsewhere"),
    "D7": ("loss of power", "as D4"),
    "W1": ("weights cut", "exit 2: file, tensor, expected, found"),
    "W2": ("weights malformed", "exit 2, no crash"),
    "W3": ("weights with a flipped bit", "refused where there is a manifest, else warned"),
    "W4": ("weights replaced while serving", "no effect, no SIGBUS"),
    "M1": ("garbage on a socket", "dropped, counted"),
    "M2": ("wrong values of the right type", "refused with the field's name"),
    "M3": ("forged, replayed, stale ticket", "refused before it is opened"),
    "M4": ("messages out of order or twice", "ignored or answered again; no double work"),
    "M5": ("msgpack bombs", "refused without memory"),
    "C1": ("client gone after its submit", "the job runs; its id can be asked later"),
    "C2": ("client that never reads", "its queue is bounded; others unaffected"),
    "C3": ("10,000 submits by 500 clients", "honest \"full\"; bounded memory"),
    "C4": ("one id twice, other content", "one job; other content is an error"),
    "C5": ("cancel in each phase", "ends within a unit and 1 s; no file"),
    "C6": ("hostile prompt", "limited, cleaned, one line in logs"),
    "R1": ("shared memory full", "figures; nothing leaked"),
    "R2": ("no descriptors", "tried again; control stays"),
    "R3": ("names of a former crash", "own swept, foreign untouched"),
    "R4": ("slow consumer", "back-pressure; no growth"),
    "R5": ("host memory short", "a stage goes, not the launcher"),
    "O1": ("clock set", "no time-out fires"),
    "O2": ("second launcher", "refused; the first undisturbed"),
    "O3": ("reload with a bad config", "the old one stays"),
    "O4": ("log pipe blocked or closed", "service goes on and counts dropped lines"),
}

# Tests of the parts, and older ones of the whole, that have other names.
OTHERS = {
    "P1": ["test_encoder_killed"],
    "P2": ["test_dit_killed"],
    "P4": ["test_vae_killed", "test_saved_latent_goes_on_at_the_vae"],
    "P5": ["test_mux_killed", "test_path_same_bytes_again_are_no_conflict"],
    "P6": ["test_killed_launcher_takes_all_with_it", "test_killed_launcher_keeps_its_word",
           "test_clip_that_is_there_is_not_made_again"],
    "P7": ["test_two_killed_together"],
    "P8": ["test_stopped_stage_is_declared_dead"],
    "P9": ["test_hung_unit_is_found_behind_a_beating_heart", "test_slow_stage_finishes_unkilled"],
    "P10": ["test_five_deaths_park_a_stage"],
    "P11": ["test_hopeless_stage_ends_the_launcher"],
    "P12": ["test_poison_is_buried"],
    "P13": ["test_state_dir_orphan_stage_is_named"],
    "P14": ["test_stopped_launcher_goes_on"],
    "G1": ["test_memory_that_others_have_is_retried"],
    "D1": ["test_clip_full_file_system"],
    "D2": ["test_full_disk_refuses_and_ends_still_fit"],
    "D4": ["test_torn_end_is_cut_at_every_byte"],
    "D5": ["test_flipped_bit_in_the_middle_is_refused_with_its_offset", "test_repair_keeps_all_but_the_damaged",
           "test_damaged_journal_is_refused_and_mended"],
    "D6": ["test_path_refuses_a_directory_that_became_a_link", "test_path_never_follows_links",
           "test_path_sweep_never_follows_a_link"],
    "D7": ["test_batch_that_was_never_synced_is_cut_as_a_whole"],
    "W1": ["test_every_truncation", "test_truncation_after_loading_is_no_concern"],
    "W2": ["test_headers_that_are_refused", "test_pickles_that_are_refused", "test_depth_is_bounded",
           "test_tensors_that_are_refused"],
    "W3": ["test_manifests"],
    "W4": ["test_files_that_change_while_read", "test_truncation_after_loading_is_no_concern"],
    "M1": ["test_garbage_is_dropped_and_counted", "test_strangers_stay_out"],
    "M2": ["test_wrong_fields_are_refused_by_name", "test_job_refuses_numbers_out_of_range"],
    "M3": ["test_stale_and_forged_tickets_are_refused", "test_truncated_region_is_an_error_not_a_signal"],
    "M5": ["test_bombs_are_refused_without_memory"],
    "C2": ["test_events_deaf_or_gone_watchers_harm_nobody", "test_silent_reader_never_blocks_the_sender"],
    "C3": ["test_submit_full_queue_says_when", "test_places_are_bounded_and_given_on",
           "test_submit_one_key_is_one_client", "test_retry_counts_for_who_asks"],
    "C4": ["test_submit_twice_is_once"],
    "C5": ["test_cancel_running", "test_cancel_queued"],
    "C6": ["test_job_refuses_bad_prompts", "test_cli_text_for_a_terminal_has_no_control_characters"],
    "R1": ["test_too_small_shm_is_an_error_with_figures"],
    "R3": ["test_state_dir_sweeps_after_a_dead_launcher"],
    "O2": ["test_second_launcher_is_refused", "test_state_dir_second_launcher_is_refused"],
}

# These show a part of what is promised; the note says what is missing.
PARTLY = {
    "C3": "50 clients, 1,000 submits; all of them: see above",
    "D7": "with what was synced; no power was cut",
    "G1": "the wait; not with a card",
    "G2": "on the CPU",
    "G4": "on the CPU",
    "R5": "whom the kernel would take; that it does needs a cgroup of our own",
}

RESULT = re.compile(r"\[\s*(OK|FAILED|SKIPPED)\s*\] (test_\w+)")


def results(path):
    """test name -> "ok", "failed" or "skipped"; a name that several programs have: the worst."""
    found, rank = {}, {"OK": 0, "SKIPPED": 1, "FAILED": 2}
    for word, name in RESULT.findall(html.unescape(Path(path).read_text(errors="replace"))):
        if name not in found or rank[word] > rank[found[name]]:
            found[name] = word
    words = {"OK": "ok", "SKIPPED": "skipped", "FAILED": "**failed**"}
    return {name: words[word] for name, word in found.items()}


def kept(text):
    """The table as it stands: {fault: (tests, {column: cell})}."""
    lines = text[text.index(BEGIN):text.index(END)].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    heads = rows[0][3:] if rows else []  # its first cell is empty
    return {r[0]: (["test_" + t for t in re.findall(r"`(\w+)`", r[3])], dict(zip(heads, r[4:]))) for r in rows[1:]}


def main(arguments):
    runs = [a.partition("=")[::2] for a in arguments]
    if not runs or not all(path for _, path in runs):
        print(__doc__, file=sys.stderr)
        return 2
    text = DOC.read_text()
    old = kept(text)
    runs = [(name, None if path == "keep" else results(path)) for name, path in runs]
    every = sorted({test for _, found in runs for test in found or []})
    keeps = [name for name, found in runs if found is None]
    rows, n_covered, n_failed = [], 0, 0
    for fault, (what, promise) in FAULTS.items():
        prefix = f"test_{fault[0].lower()}{int(fault[1:]):02d}_"
        tests = [t for t in every if t.startswith(prefix)]
        tests += [t for t in OTHERS.get(fault, []) if t in every and t not in tests]
        old_tests, old_cells = old.get(fault, ([], {}))
        if any(old_cells.get(name, "-") != "-" for name in keeps):
            tests += [t for t in old_tests if t not in tests]
        columns = []
        for name, found in runs:
            if found is None:
                columns.append(old_cells.get(name, "-"))
                continue
            words = [found[t] for t in tests if t in found]
            n_failed += words.count("**failed**")
            tally = [f"{words.count(w)} {w}" for w in ("ok", "skipped", "**failed**") if w in words]
            columns.append(", ".join(tally) or "-")
        is_covered = any(" ok" in column for column in columns)
        n_covered += is_covered
        names = "<br>".join(f"`{t[5:]}`" for t in tests)
        if not is_covered:
            names = "not covered yet"
        elif fault in PARTLY:
            names += f"<br>partly: {PARTLY[fault]}"
        rows.append(f"| {fault} | {what} | {promise} | {names} | {' | '.join(columns)} |")
    heads = [name for name, _ in runs]
    table = [f"{n_covered} of {len(FAULTS)} faults have a test that ran and passed.", "",
             "| | fault | promised | tests (`test_...`) | " + " | ".join(heads) + " |",
             "|" + "---|" * (4 + len(heads)), *rows]
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    DOC.write_text(text[:before] + "\n" + "\n".join(table) + "\n" + text[after:])
    print(f"{n_covered} of {len(FAULTS)} covered, {n_failed} failed: {DOC}")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
