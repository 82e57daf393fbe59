//! How steadily devices came back, and who was the last.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::Story;
use crate::report::{Latencies, ratio};

const SECOND: Duration = Duration::from_secs(1);

/// How steady it was, from the first device that was back until so many were: 99 of 100.
#[derive(Debug, PartialEq)]
pub(super) struct Progress {
    /// From the first pod that is ready to the first device.
    until_first: Duration,
    /// From there.
    until_most: Duration,
    /// Devices that came back in each whole second.
    each: Vec<u32>,
    /// The longest time between two devices one after the other.
    longest_pause: Duration,
}

impl Progress {
    /// By when the devices came back, in order, of `all`. `None` when fewer than 99 of 100 did.
    pub(super) fn new(returns: &[Duration], all: usize) -> Option<Self> {
        let most = (all * 99).div_ceil(100);
        let counted = returns.get(..most)?;
        let (&first, &last) = (counted.first()?, counted.last()?);
        let until_most = last - first;
        let mut each = vec![0_u32; until_most.as_secs().max(1) as usize];
        for at in counted {
            // What is left behind the last whole second is no second.
            if let Some(second) = each.get_mut((*at - first).as_secs() as usize) {
                *second += 1;
            }
        }
        let pauses = counted.windows(2).filter_map(|pair| Some(*pair.get(1)? - *pair.first()?));
        Some(Self { until_first: first, until_most, each, longest_pause: pauses.max().unwrap_or_default() })
    }

    /// Whether there was progress in every second.
    pub(super) fn is_steady(&self) -> bool {
        self.longest_pause < SECOND
    }

    pub(super) fn report(&self) -> Value {
        let mut sorted = self.each.clone();
        sorted.sort_unstable();
        json!({
            "steady": self.is_steady(),
            "longest_pause_ms": self.longest_pause.as_millis(),
            "until_first_s": self.until_first.as_secs_f64(),
            "from_first_to_99_percent_s": self.until_most.as_secs_f64(),
            "back_per_second": {
                "p10": sorted.get(sorted.len() / 10),
                "median": sorted.get(sorted.len() / 2),
                "max": sorted.last(),
                "seconds_without_any": sorted.iter().filter(|count| **count == 0).count(),
            },
        })
    }
}

/// How long some devices waited, how often they tried, and whose timers they have.
fn group<'a>(stories: impl IntoIterator<Item = &'a Story>) -> Value {
    let (mut waits, mut attempts) = (Latencies::default(), Vec::new());
    let (mut waited, mut rested) = (Duration::ZERO, Duration::ZERO);
    let mut missing = 0_u32;
    for story in stories {
        attempts.push(story.attempts);
        match story.back_after {
            Some(wait) => {
                waits.record(wait);
                (waited, rested) = (waited + wait, rested + story.rested);
            }
            None => missing += 1,
        }
    }
    attempts.sort_unstable();
    let at =
        |hundredth: usize| attempts.get((attempts.len() * hundredth / 100).min(attempts.len().max(1) - 1));
    json!({
        "devices": attempts.len(),
        "not_back": missing,
        "wait": waits.report(),
        "attempts": { "p50": at(50), "p99": at(99), "max": attempts.last() },
        "waited_between_attempts": ratio(rested.as_secs_f64(), waited.as_secs_f64()),
    })
}

/// Who waited how long: all, by the pod that the balancer gave them, by client, and the last of 100.
pub(super) fn starvation(stories: &[Story]) -> Value {
    let mut last: Vec<&Story> = stories.iter().collect();
    // Who is not back waits longest.
    last.sort_by_key(|story| story.back_after.unwrap_or(Duration::MAX));
    let last = last.split_off(stories.len() * 99 / 100);
    let count = |name: fn(&Story) -> String| {
        let mut counts = BTreeMap::<_, u32>::new();
        last.iter().for_each(|story| *counts.entry(name(story)).or_default() += 1);
        counts
    };
    let mut last_percent = group(last.iter().copied());
    last_percent["first_of_them_after_s"] =
        json!(last.first().and_then(|story| story.back_after).map(|wait| wait.as_secs_f64()));
    last_percent["by_flow"] = json!(count(|story| story.edge.to_string()));
    last_percent["by_client"] = json!(count(|story| story.kind.to_owned()));
    json!({
        "all": group(stories),
        "by_flow": split(stories, |story| story.edge.to_string()),
        "by_client": split(stories, |story| story.kind.to_owned()),
        "last_percent": last_percent,
    })
}

fn split(stories: &[Story], name: fn(&Story) -> String) -> BTreeMap<String, Value> {
    let mut groups = BTreeMap::<_, Vec<&Story>>::new();
    stories.iter().for_each(|story| groups.entry(name(story)).or_default().push(story));
    groups.into_iter().map(|(name, stories)| (name, group(stories))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(each: &[f64]) -> Vec<Duration> {
        each.iter().map(|seconds| Duration::from_secs_f64(*seconds)).collect()
    }

    #[test]
    fn a_pause_of_a_second_is_not_steady_wherever_the_second_begins() {
        let steady = Progress::new(&seconds(&[5.0, 5.9, 6.8, 7.7]), 4).expect("all are back");
        assert!(steady.is_steady(), "{steady:?}");
        assert_eq!((steady.until_first, &steady.each[..]), (Duration::from_secs(5), &[2, 1][..]));
        let pause = Progress::new(&seconds(&[5.0, 5.9, 6.95, 7.7]), 4).expect("all are back");
        assert!(!pause.is_steady(), "{pause:?}");
        assert_eq!(pause.report()["back_per_second"]["seconds_without_any"], 0, "and yet no second is empty");
    }

    #[test]
    fn the_last_of_a_hundred_does_not_count_and_fewer_say_nothing() {
        let mut returns: Vec<_> = (0..200).map(|number| Duration::from_millis(10 * number)).collect();
        returns[199] = Duration::from_secs(60);
        let progress = Progress::new(&returns, 200).expect("enough are back");
        assert!(progress.is_steady(), "{progress:?}");
        assert_eq!(progress.each, [100]);
        assert_eq!(Progress::new(&returns[..197], 200), None);
        assert_eq!(Progress::new(&[], 0), None);
    }

    #[test]
    fn the_last_percent_is_those_that_waited_longest_and_those_that_are_not_back() {
        let stories: Vec<_> = (0..200_u32)
            .map(|number| Story {
                edge: number as usize % 2,
                kind: "a client",
                attempts: 1 + number / 100,
                back_after: (number != 7).then(|| Duration::from_millis(u64::from(number))),
                rested: Duration::ZERO,
            })
            .collect();
        let report = starvation(&stories);
        assert_eq!(report["all"]["attempts"], json!({ "p50": 2, "p99": 2, "max": 2 }));
        assert_eq!(report["by_flow"]["1"]["not_back"], 1, "{report:#}");
        let last = &report["last_percent"];
        assert_eq!((&last["devices"], &last["not_back"]), (&json!(2), &json!(1)), "{last:#}");
        assert_eq!(last["first_of_them_after_s"], 0.199);
        assert_eq!(last["by_flow"], json!({ "1": 2 }));
        assert_eq!(starvation(&[])["all"]["devices"], 0);
    }
}
