"""Which tests hold each line of the contract with clients, in our own words.

A line that the code knows of (a route, a key of a body, a status) and that is missing here fails
``test_contract_rows.py``, and so does one whose tests do not exist or do not write its names and codes out:
clients depend on them as they are spelled, so that a test must not take them from the models.
"""

from __future__ import annotations

Rows = dict[str, tuple[str, ...]]
"""What is promised → the tests that hold it over real HTTP."""

SUBMITTED = "test_a_submitted_job_is_202_and_has_every_documented_key"
DEFAULTS = (
    "test_without_the_optional_keys_a_job_has_their_defaults_null_means_absent_and_the_unknown_is_ignored"
)
LEGACY = "test_the_legacy_form_comes_back_as_it_was_given"
WRONG = "test_a_wrong_value_is_400_and_named"
NEW_FIELDS = "test_the_new_fields_come_back_with_their_defaults_and_as_they_were_given"
NEW_WRONG = "test_a_wrong_value_of_a_new_field_is_400_and_named"
ENDS = "test_how_a_job_ended_and_when_stands_under_the_name_of_its_status"
WORK = "test_work_is_empty_or_one_job_that_is_running_now"
BEATS = "test_heartbeats_are_counted_once_an_interval_and_the_last_one_is_told"
LIST = "test_the_list_pages_filters_and_orders"
SEARCH = "test_jobs_are_found_by_status_group_label_node_and_text"
EMPTY = "test_an_empty_parameter_is_an_absent_one"
ADMIN_ONLY = "test_what_only_the_admin_may_do_is_403_for_a_user_whatever_the_body"
KEY_OF_ONES_OWN = "test_a_user_makes_lists_and_revokes_keys_of_his_own"
OLD_WEBHOOK = "test_a_receiver_of_before_hears_of_running_failed_and_completed_in_the_words_that_it_knows"
NEW_WEBHOOK = "test_a_job_is_told_of_what_befalls_its_attempts_when_it_asks_for_it"
GETS = "test_every_get_of_what_there_is_is_200"
NO_JOB = "test_an_unknown_job_is_404_for_every_call"
CHANGES = (
    "test_a_change_that_takes_no_body_ignores_one",
    "test_a_change_of_an_unknown_job_is_404",
    "test_a_change_that_the_status_does_not_allow_is_409",
)
OTHER_JOB_SAME_KEY = "test_another_job_under_the_same_key_is_409_and_not_queued"
TOO_MANY_KEYS = "test_a_user_with_a_thousand_keys_is_409_until_he_revokes_one"
NO_RULE = "test_an_unknown_rule_is_404"
NO_GROUP = "test_an_unknown_group_is_404"
NOBODY_ELSES = "test_nobody_elses_deliveries_exist_not_even_for_the_admin"
RULE = "test_a_rule_that_is_made_is_201_and_has_every_documented_name"
BY_HAND = "test_a_user_may_complete_his_pending_job_by_hand", "test_a_user_may_fail_his_pending_job_by_hand"
LATE = (
    "test_a_report_by_another_node_is_409_with_the_reason",
    "test_a_report_of_an_older_attempt_is_409_superseded",
    "test_a_report_after_cancel_is_409_canceled",
)
SWEEP = "test_the_admin_deletes_all_jobs_and_all_users_but_himself"
NOT_HELD = "test_a_heartbeat_of_a_node_that_does_not_hold_the_job_says_canceled_and_why"
DELIVERIES = "test_every_delivery_is_kept_with_what_became_of_it"

STATUSES: Rows = {
    "400": ("test_malformed_json_is_400", WRONG, "test_a_wrong_query_is_400"),
    "401": ("test_every_route_but_those_of_health_is_401_without_credentials_and_403_with_an_unknown_key",),
    "403": (
        "test_every_route_but_those_of_health_is_401_without_credentials_and_403_with_an_unknown_key",
        ADMIN_ONLY,
    ),
    "404": (
        NO_JOB,
        "test_another_users_job_is_404_for_every_call_and_stays_as_it_is",
        "test_an_unknown_route_is_404_as_json",
    ),
    "405": ("test_a_method_that_a_path_does_not_know_is_405_as_json",),
    "409": ("test_cancel_of_an_ended_job_is_409_and_changes_nothing", *LATE),
    "413": ("test_a_body_beyond_the_limit_is_413", "test_a_body_in_chunks_is_read_and_limited_too"),
    "414": ("test_a_head_that_is_too_long_is_refused_as_json",),
    "429": ("test_who_asks_too_often_is_429_and_told_when_to_try_again",),
    "431": ("test_a_head_that_is_too_long_is_refused_as_json",),
    "503": ("test_redis_away_is_503_with_retry_after_and_needs_no_restart",),
}
"""Refusals; all are JSON of one shape."""

HABITS: Rows = {
    "times have milliseconds and Z, and what has not happened is null": (SUBMITTED, WORK, ENDS),
    "malformed JSON is 400, whatever the content type": (
        "test_malformed_json_is_400",
        "test_a_body_needs_no_content_type",
    ),
    "a slash at the end of a path is no matter": ("test_a_trailing_slash_is_accepted",),
    "null means absent, unknown keys are ignored": (DEFAULTS,),
    "what is wrong is named by path": (WRONG, "test_a_wrong_rule_is_400_and_names_the_field"),
    "pages below 1 are the first, absurd sizes are 400": (LIST, "test_a_wrong_query_is_400"),
    "empty parameters, byte order marks and 3.0 for 3 are forgiven": (
        EMPTY,
        "test_a_byte_order_mark_in_front_of_json_is_ignored",
        "test_numbers_that_are_whole_are_integers_however_they_are_written",
        "test_an_empty_pattern_is_as_good_as_none",
    ),
    "browsers may ask first, from the origins of the settings": (
        "test_browsers_may_ask_first",
        "test_browsers_may_read_answers_and_refusals",
        "test_only_pages_of_the_configured_origins_may_read_answers",
    ),
    "/docs and /openapi.json are for everybody": (
        "test_pages_load_nothing_from_elsewhere_and_run_nothing_inline",
        "test_the_schema_is_valid_openapi_and_describes_every_route",
    ),
    "the schema and the answers agree": ("test_no_generated_request_breaks_the_schema",),
    "a worker of before lives its whole life": (
        "test_an_old_worker_without_lease_or_content_type_lives_its_whole_life",
    ),
    "sync or the six keys of the legacy form, and these mean three folders": (
        WRONG,
        LEGACY,
        "test_rule_10_the_legacy_form_brings_input_and_checkpoint_and_keeps_checkpoint_and_output",
    ),
    "a lease is judged by itself, and without one by the machine": (*LATE, NOT_HELD),
    "a user may report on his own job that nobody holds, a node may not": (
        *BY_HAND,
        "test_a_node_reports_on_no_job_that_nobody_holds",
    ),
    "the admin is the user 0, and his key comes from the environment": (
        "test_the_admin_makes_users_and_keys",
        "test_the_admins_key_from_the_environment_shows_nothing_of_itself",
    ),
}
"""What holds for more than one call."""

CREDENTIALS: Rows = {
    "X-Kelpie-Key": (
        "test_the_first_kind_that_is_shown_counts",
        "test_no_secret_is_written_into_redis_or_the_log",
    ),
    "Salad-Api-Key": (
        "test_many_first_requests_at_once_make_one_user_and_few_questions",
        "test_an_organizations_key_speaks_for_the_one_user_of_the_organization",
        "test_a_key_that_the_service_does_not_know_is_403",
        "test_an_organization_that_is_not_entitled_is_403",
        "test_what_was_good_survives_an_outage",
    ),
    "Salad-Organization": ("test_a_key_without_its_other_two_headers_is_400",),
    "Salad-Project": (
        "test_a_key_without_its_other_two_headers_is_400",
        "test_a_node_without_its_project_is_400",
    ),
    "Authorization": (
        "test_a_node_without_its_project_is_400",
        "test_a_node_runs_the_jobs_of_its_organization",
        "test_a_node_that_comes_before_its_organizations_key_speaks_for_the_same_user",
        "test_a_token_that_is_not_good_is_403",
        "test_a_node_speaks_for_its_own_machine_only",
    ),
}
"""Headers that say who calls."""

KEYS_OF_A_SUBMIT: Rows = {
    "command": (SUBMITTED, WRONG),
    "arguments": (SUBMITTED, DEFAULTS, WRONG),
    "environment": (SUBMITTED, DEFAULTS, WRONG),
    "container_group_id": (SUBMITTED, WRONG),
    "max_failures": (SUBMITTED, DEFAULTS, WRONG),
    "heartbeat_interval": (SUBMITTED, DEFAULTS, WRONG),
    "webhook": (SUBMITTED, DEFAULTS, WRONG),
    "webhook_events": (SUBMITTED, DEFAULTS, "test_wrong_events_are_400"),
    "compression": (SUBMITTED, DEFAULTS, WRONG),
    "sync": (SUBMITTED, WRONG),
    "input_bucket": (WRONG, LEGACY),
    "input_prefix": (LEGACY,),
    "checkpoint_bucket": (LEGACY,),
    "checkpoint_prefix": (LEGACY,),
    "output_bucket": (LEGACY,),
    "output_prefix": (LEGACY,),
    "priority": (SUBMITTED, DEFAULTS),
    "labels": (SUBMITTED, DEFAULTS, NEW_WRONG),
    "max_runtime_s": (SUBMITTED, DEFAULTS, NEW_FIELDS, NEW_WRONG),
    "not_before": (SUBMITTED, DEFAULTS, NEW_FIELDS, NEW_WRONG),
    "retry_backoff_s": (SUBMITTED, DEFAULTS, NEW_FIELDS, NEW_WRONG),
}

KEYS_OF_A_SYNC_ENTRY: Rows = {
    "bucket": (SUBMITTED, WRONG),
    "prefix": (SUBMITTED, WRONG),
    "local_path": (SUBMITTED,),
    "direction": (SUBMITTED, WRONG),
    "pattern": (
        SUBMITTED,
        "test_a_pattern_that_no_worker_could_run_is_400_at_submit",
        "test_an_empty_pattern_is_as_good_as_none",
    ),
}

KEYS_OF_A_JOB: Rows = {
    **KEYS_OF_A_SUBMIT,
    "id": (WORK,),
    "user_id": (SUBMITTED,),
    "status": (SUBMITTED, WORK, ENDS),
    "created": (SUBMITTED, ENDS),
    "started": (SUBMITTED, WORK, ENDS),
    "completed": (SUBMITTED, ENDS),
    "canceled": (SUBMITTED, ENDS),
    "failed": (SUBMITTED, ENDS),
    "heartbeat": (SUBMITTED, WORK, BEATS),
    "num_failures": (SUBMITTED, "test_the_last_failure_ends_the_job"),
    "num_heartbeats": (SUBMITTED, BEATS),
    "machine_id": (SUBMITTED, WORK),
    "attempt": (SUBMITTED, WORK),
    "attempts": ("test_expand_adds_the_attempts_oldest_first",),
    "transfers": ("test_expand_adds_what_nodes_say_they_have_moved",),
    "upload_backlog": ("test_what_a_node_has_to_upload_is_told_with_its_heartbeats",),
    "progress": ("test_what_a_command_says_of_its_progress_is_told_with_heartbeats",),
    "progress_history": ("test_expand_adds_how_progress_was_over_two_attempts_oldest_first",),
    "waiting_for": (SUBMITTED, "test_a_job_says_what_it_waits_for"),
    "on_hold": (SUBMITTED, "test_a_held_job_is_not_leased_until_it_is_resumed"),
    "banned_nodes": (SUBMITTED, "test_unban_of_one_node_leaves_the_other_bans"),
    "lease": (WORK, "test_a_poll_repeated_after_a_lost_answer_gives_the_same_lease"),
    "lease_expires": (WORK, "test_a_heartbeat_is_200_and_renews_the_lease"),
    "fence": (WORK,),
}
"""Of jobs as they are shown, the last three to the node that leases them."""

COMMAND_END = "test_the_owner_sees_how_his_command_failed_and_the_admin_sees_no_secret_of_it"
WRONG_END = "test_a_wrong_end_of_a_command_is_400_and_counts_nothing"

KEYS_OF_A_REPORT: Rows = {
    "machine_id": ("test_a_report_by_nobody_in_particular_is_400", NOT_HELD),
    "container_group_id": ("test_a_report_by_nobody_in_particular_is_400",),
    "lease": ("test_a_report_by_nobody_in_particular_is_400", NOT_HELD, *LATE),
    "exit_code": (
        "test_expand_adds_the_attempts_oldest_first",
        "test_a_failure_with_wrong_details_is_400_and_counts_nothing",
    ),
    "reason": (
        "test_expand_adds_the_attempts_oldest_first",
        "test_a_failure_with_wrong_details_is_400_and_counts_nothing",
    ),
    "outcome": (
        "test_the_last_failure_ends_the_job",
        "test_a_failure_with_wrong_details_is_400_and_counts_nothing",
    ),
    "signal": (COMMAND_END, WRONG_END),
    "out_of_memory": (COMMAND_END, WRONG_END),
    "stderr_tail": (COMMAND_END, WRONG_END),
}

PARAMETERS_OF_A_LIST: Rows = {
    "status": (LIST, EMPTY, "test_a_wrong_query_is_400"),
    "container_group_id": (LIST, EMPTY),
    "page_size": (LIST, EMPTY, "test_a_wrong_query_is_400"),
    "page": (LIST, EMPTY, "test_a_wrong_query_is_400"),
    "asc": (LIST, EMPTY, "test_a_wrong_query_is_400"),
    "cursor": (
        "test_cursors_lead_through_all_jobs_without_gap_or_repeat",
        "test_a_wrong_search_is_400_and_named",
    ),
    "label": (SEARCH, "test_a_wrong_search_is_400_and_named"),
    "machine_id": (SEARCH, "test_a_wrong_search_is_400_and_named"),
    "q": (SEARCH, "test_a_wrong_search_is_400_and_named"),
}

PARAMETERS_OF_A_POLL: Rows = {
    "machine_id": ("test_work_for_nobody_in_particular_is_400",),
    "container_group_id": ("test_work_for_nobody_in_particular_is_400",),
    "wait": (
        "test_a_long_poll_is_answered_when_a_job_comes",
        "test_a_long_poll_without_a_job_is_an_empty_list",
        "test_work_for_nobody_in_particular_is_400",
    ),
}

KEYS_OF_A_RULE: Rows = {
    "container_group_id": ("test_a_wrong_rule_is_400_and_names_the_field",),
    "min_replicas": (
        "test_a_wrong_rule_is_400_and_names_the_field",
        "test_a_wrong_change_is_400_and_changes_nothing",
    ),
    "max_replicas": (
        "test_a_wrong_rule_is_400_and_names_the_field",
        "test_a_wrong_change_is_400_and_changes_nothing",
    ),
    "idle_threshold_seconds": (
        "test_a_wrong_rule_is_400_and_names_the_field",
        "test_a_wrong_change_is_400_and_changes_nothing",
    ),
}

KEYS_OF_A_WEBHOOK: Rows = {
    "status": (OLD_WEBHOOK,),
    "job_id": (OLD_WEBHOOK,),
    "machine_id": (OLD_WEBHOOK,),
    "container_group_id": (OLD_WEBHOOK,),
}

EVENTS_OF_A_WEBHOOK: Rows = {
    "running": (OLD_WEBHOOK,),
    "completed": (OLD_WEBHOOK,),
    "failed": (OLD_WEBHOOK,),
    "canceled": ("test_a_job_is_told_of_what_it_asks_for",),
    "interrupted": (NEW_WEBHOOK,),
    "released": (NEW_WEBHOOK,),
    "app_failed": (NEW_WEBHOOK,),
    "sync_failed": (NEW_WEBHOOK,),
}

HEADERS_OF_A_WEBHOOK: Rows = {
    "webhook-id": (OLD_WEBHOOK, "test_a_replay_comes_with_the_same_id"),
    "webhook-timestamp": (OLD_WEBHOOK,),
    "webhook-signature": (OLD_WEBHOOK, "test_the_old_secret_signs_beside_the_new_one"),
    "x-kelpie-key": (OLD_WEBHOOK,),
    "content-type": (OLD_WEBHOOK,),
    "user-agent": (OLD_WEBHOOK,),
}

CALLS: Rows = {
    "POST /jobs": (
        SUBMITTED,
        "test_the_same_job_under_the_same_key_is_202_and_the_same_job",
        OTHER_JOB_SAME_KEY,
    ),
    "POST /jobs/batch": (
        "test_a_batch_is_202_in_the_order_of_the_request",
        "test_a_batch_of_none_or_more_than_a_thousand_is_400_and_queues_nothing",
        "test_one_bad_job_of_a_batch_is_400_with_its_index_and_queues_nothing",
        OTHER_JOB_SAME_KEY,
    ),
    "GET /jobs": (LIST, "test_a_list_without_new_parameters_keeps_its_shape", GETS),
    "DELETE /jobs": (SWEEP, ADMIN_ONLY),
    "GET /jobs/{job_id}": (
        NO_JOB,
        "test_the_admin_sees_and_cancels_the_jobs_of_all",
        "test_expand_adds_the_attempts_oldest_first",
        GETS,
    ),
    "DELETE /jobs/{job_id}": (
        "test_cancel_is_202_and_harmless_when_repeated",
        "test_cancel_of_an_ended_job_is_409_and_changes_nothing",
        "test_purge_is_200_and_then_the_job_is_unknown",
    ),
    "DELETE /jobs/container-groups/{container_group_id}": (
        "test_clearing_a_group_removes_pending_jobs_and_cancels_running_ones",
    ),
    "GET /work": (
        WORK,
        "test_stale_running_jobs_come_before_pending_ones_and_the_oldest_first",
        "test_the_last_failure_ends_the_job",
        "test_of_many_polls_at_once_each_gets_at_most_one_job_and_no_job_goes_out_twice",
        GETS,
    ),
    "POST /jobs/{job_id}/heartbeat": ("test_a_heartbeat_is_200_and_renews_the_lease", NOT_HELD, NO_JOB),
    "POST /jobs/{job_id}/completed": ("test_completed_is_200_and_harmless_when_repeated", *LATE, NO_JOB),
    "POST /jobs/{job_id}/failed": (
        "test_failed_is_202_and_harmless_when_repeated",
        "test_the_fifth_ban_of_a_node_tells_it_to_reallocate",
        *LATE,
        NO_JOB,
    ),
    "POST /jobs/{job_id}/released": (
        "test_released_is_200_counts_nothing_and_frees_the_job_at_once",
        *LATE,
        NO_JOB,
    ),
    "POST /jobs/{job_id}/hold": ("test_a_held_job_is_not_leased_until_it_is_resumed", *CHANGES),
    "POST /jobs/{job_id}/resume": ("test_a_held_job_is_not_leased_until_it_is_resumed", *CHANGES),
    "POST /jobs/{job_id}/requeue": ("test_a_job_that_ended_without_success_can_be_requeued", *CHANGES),
    "POST /jobs/{job_id}/prioritize": (
        "test_a_job_that_is_prioritized_goes_before_older_ones",
        "test_a_priority_that_there_is_not_is_400_and_named",
        *CHANGES[1:],
    ),
    "POST /jobs/{job_id}/unban": ("test_unban_of_one_node_leaves_the_other_bans", *CHANGES),
    "GET /jobs/{job_id}/events": (
        "test_a_jobs_stream_begins_with_its_submission_and_tells_of_no_other",
        GETS,
        "test_an_unknown_job_has_no_events",
    ),
    "GET /jobs/{job_id}/logs": (
        "test_the_log_of_a_job_is_read_page_by_page",
        "test_the_log_of_an_unknown_job_is_404",
        GETS,
    ),
    "POST /jobs/{job_id}/logs": (
        "test_lines_sent_again_are_200_and_change_nothing",
        "test_the_log_of_an_unknown_job_is_404",
        "test_who_does_not_hold_the_job_adds_nothing_to_its_log",
    ),
    "POST /nodes/drain": ("test_a_node_is_drained_and_resumed_by_name", "test_an_unknown_node_is_404"),
    "POST /nodes/resume": ("test_a_node_is_drained_and_resumed_by_name",),
    "GET /nodes/drained": (GETS,),
    "GET /events": (
        "test_a_stream_tells_of_a_job_as_it_happens",
        "test_a_page_is_answered_at_once_and_leads_to_the_next",
        GETS,
    ),
    "POST /scaling-rules": (RULE, "test_a_second_rule_for_a_group_is_409"),
    "GET /scaling-rules": ("test_rules_are_listed_for_their_user_and_for_the_admin", GETS),
    "DELETE /scaling-rules": ("test_the_admin_sees_changes_and_deletes_everybodys_rules",),
    "GET /scaling-rules/{rule_id}": (RULE, NO_RULE, GETS),
    "PATCH /scaling-rules/{rule_id}": (
        "test_any_subset_of_a_rules_numbers_can_be_changed",
        "test_a_wrong_change_is_400_and_changes_nothing",
        NO_RULE,
    ),
    "DELETE /scaling-rules/{rule_id}": ("test_a_deleted_rule_is_204_and_then_404",),
    "GET /scaling-rules/{rule_id}/decision": (
        "test_a_preview_tells_the_numbers_and_changes_nothing",
        GETS,
        NO_RULE,
        "test_a_preview_for_a_group_that_is_gone_is_409",
    ),
    "GET /scaling-rules/{rule_id}/decisions": ("test_decisions_are_listed_newest_first", GETS, NO_RULE),
    "GET /container-groups": ("test_groups_are_seen_in_their_own_project_and_by_the_admin", GETS),
    "PUT /container-groups/{group_id}": ("test_a_group_is_registered_with_201_and_renamed_with_200",),
    "GET /container-groups/{group_id}": (
        "test_a_group_is_registered_with_201_and_renamed_with_200",
        GETS,
        NO_GROUP,
    ),
    "DELETE /container-groups/{group_id}": ("test_a_preview_for_a_group_that_is_gone_is_409", NO_GROUP),
    "PUT /container-groups/{group_id}/nodes": (
        "test_a_host_reports_its_nodes_and_hears_what_it_is_to_run",
        NO_GROUP,
    ),
    "POST /users": ("test_the_admin_makes_users_and_keys", "test_a_wrong_user_is_400", ADMIN_ONLY),
    "GET /users": ("test_the_admin_lists_and_deletes_users", GETS),
    "DELETE /users": (SWEEP, ADMIN_ONLY),
    "GET /users/me": ("test_the_admin_makes_users_and_keys", GETS),
    "DELETE /users/{user_id}": ("test_the_admin_lists_and_deletes_users",),
    "POST /users/{user_id}/token": (
        "test_the_admin_makes_users_and_keys",
        "test_a_key_for_nobody_is_404_and_without_names_400",
        TOO_MANY_KEYS,
    ),
    "GET /users/{user_id}/keys": ("test_the_admin_sees_and_ends_the_keys_of_all", GETS),
    "DELETE /users/{user_id}/keys/{key_id}": ("test_the_admin_sees_and_ends_the_keys_of_all",),
    "GET /users/me/keys": (KEY_OF_ONES_OWN, GETS),
    "POST /users/me/keys": (KEY_OF_ONES_OWN, TOO_MANY_KEYS),
    "DELETE /users/me/keys/{key_id}": (KEY_OF_ONES_OWN,),
    "POST /users/me/webhook-secret/rotate": ("test_the_old_secret_signs_beside_the_new_one",),
    "GET /webhooks/deliveries": (DELIVERIES, "test_pages_lead_to_the_next", GETS),
    "GET /webhooks/deliveries/{delivery_id}": (DELIVERIES, GETS, NOBODY_ELSES),
    "POST /webhooks/deliveries/{delivery_id}/replay": ("test_a_replay_comes_with_the_same_id", NOBODY_ELSES),
    "GET /healthz": ("test_health_needs_no_credentials",),
    "GET /readyz": ("test_health_needs_no_credentials",),
    "GET /metrics": ("test_what_all_processes_have_counted_is_seen_from_each_of_them", GETS),
}
