//! What the store promises over several nodes: three real ones, each behind a proxy that sees every frame.

#[path = "../common/mod.rs"]
mod common;
mod reads;
mod retries;
mod schemas;
mod site;

use std::process::ExitCode;

use site::Site;

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("two_appliers_on_two_nodes_at_once_both_succeed", schemas::at_once),
            ("applying_again_changes_nothing", schemas::again),
            ("an_installation_at_version_1_is_upgraded_by_two_at_once_and_goes_on_working", schemas::upgrade),
            ("a_step_waits_until_all_nodes_agree_on_the_one_before", schemas::agreement),
            ("an_older_a_missing_and_a_newer_schema_are_told_in_a_sentence", schemas::versions),
            ("what_the_cluster_lacks_is_told_in_a_sentence", schemas::lacking),
            ("bindings_must_not_outlive_gc_grace", schemas::gc_grace),
            ("reads_and_writes_are_at_local_quorum", reads::local_quorum),
            ("a_read_falls_back_once_to_local_one_and_takes_its_rows", reads::fallback),
            ("a_fallback_asks_another_node_when_its_first_is_silent", reads::silent_node),
            ("an_empty_fallback_is_an_error_never_not_found", reads::empty_fallback),
            ("other_errors_do_not_fall_back", reads::no_fallback),
            ("writes_never_fall_back", reads::writes),
            ("another_node_answers_when_one_fails", retries::next_node),
            ("a_slow_node_is_overtaken_by_another", retries::speculation),
            ("no_other_data_centre_is_ever_asked", retries::local_only),
            // The last: it freezes a node.
            ("with_one_of_two_replicas_frozen_reads_answer_and_writes_fail", reads::frozen),
        ],
    )
}
