//! One suite, every back end. What it runs is in `scenarios.rs`, `cluster.rs` and `rotation.rs`.

pub(super) mod cluster;
mod rotation;
pub(super) mod scenarios;

use self::cluster::*;
use self::rotation::*;
use self::scenarios::*;
use super::ring;
use crate::Store;
use crate::backend::Backend;
use crate::local::Local;

/// Lists the scenarios once: as single tests on the local back ends, and as one run for servers that take long to start.
macro_rules! suite {
    ($($scenario:ident),* $(,)?) => {
        mod local_file {
            $(#[tokio::test]
            async fn $scenario() {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let store = super::on_file(&folder.path().join("store.redb")).await;
                super::$scenario(store).await;
            })*
        }

        mod memory {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::super::memory().await).await;
            })*
        }

        /// Runs every scenario on stores that `fresh` opens, one for each.
        #[cfg(feature = "backends")]
        pub(super) async fn run_all<F: Future<Output = Store>>(mut fresh: impl FnMut() -> F) {
            $(
                eprintln!(concat!("scenario ", stringify!($scenario)));
                Box::pin($scenario(fresh().await)).await;
            )*
        }
    };
}

suite! {
    created_device_connects_under_its_key,
    unknown_device_is_a_normal_answer,
    second_registration_of_an_id_is_refused,
    simultaneous_registrations_have_one_winner,
    rotation_keeps_the_old_key_until_it_is_retired,
    simultaneous_additions_never_pass_three_keys,
    revoked_device_is_refused_at_once_and_logged_once,
    suspended_device_comes_back,
    decommissioned_id_is_refused_for_good,
    removed_id_can_be_registered_again,
    states_that_lead_nowhere_are_refused,
    lists_go_by_tenant_and_id_over_pages,
    derived_keys_follow_the_roots_of_the_tenant,
    listener_of_a_tenant_knows_devices_without_entry,
    short_key_is_taken_only_by_permission_and_until_the_deadline,
    watch_hears_a_revocation_at_once,
    watch_goes_on_where_it_was_told,
    log_tells_whether_it_has_an_entry_and_numbers_go_on_above_a_known_one,
    announced_revocation_is_finished_by_a_watcher,
    announcement_without_a_revocation_is_dropped,
    pods_report_how_far_they_are,
    session_record_is_read_back_until_it_expires,
    late_writer_does_not_bring_old_session_keys_back,
    session_older_than_known_is_refused,
    device_epochs_grow_for_everybody,
    bucket_gives_its_burst_and_refills,
    check_passes_on_a_healthy_store,
    new_key_alone_opens_what_was_resealed,
    log_that_was_written_anew_goes_on_and_wakes_who_waits,
    copy_of_the_log_takes_its_place_only_when_it_has_all,
    key_of_the_identity_seals_whatever_the_order_of_the_file,
    pod_without_the_next_key_keeps_it_from_coming_into_force,
    pods_that_start_at_once_share_one_ring,
    ring_rotates_by_itself_and_forgets,
    destroyed_key_closes_the_records_it_sealed,
    record_of_a_pod_with_a_newer_key_is_read,
    pods_are_listed_while_they_say_so,
    old_sign_of_life_put_back_is_none,
    number_of_pods_is_bounded,
    revocation_is_complete_when_every_pod_applied_it,
    take_over_names_the_session_displaced,
    holder_that_does_not_renew_loses_the_device,
    two_holders_of_one_key_show_by_displacing_each_other,
    device_is_held_until_its_time_is_over_or_it_is_released,
    later_end_of_a_hold_stays,
    released_device_begins_anew,
    places_of_a_tenant_are_shared_and_come_back,
    simultaneous_leases_never_pass_the_limit,
    newer_snapshot_stays_and_is_read_back,
    owner_of_the_latest_generation_is_named,
}

async fn on_file(path: &std::path::Path) -> Store {
    let local = Local::open(path.to_owned()).await.expect("a new file");
    Store::assemble(Backend::Local(local), ring(), path.display().to_string()).await.expect("a new store")
}
