use proptest::prelude::*;

use super::simulation::*;
use super::*;

const SAMPLES: u64 = 500;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// With a window of `window`, past the slow start, nothing in flight.
fn open(max_in_flight: usize, window: usize) -> (Pace, Instant) {
    let now = Instant::now();
    let mut pace = Pace::new(limits(max_in_flight), now);
    pace.slow_start = None;
    pace.window = window;
    (pace, now)
}

fn start_all(pace: &mut Pace, now: Instant) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    while pace.may_start(now) == May::Now {
        tickets.push(pace.start(now, SAMPLES, SAMPLES));
    }
    tickets
}

/// When the next request may start.
fn wait(pace: &mut Pace, now: Instant) -> Instant {
    match pace.may_start(now) {
        May::Now => now,
        May::At(then) => then,
        May::AfterAnswer => panic!("waits for an answer"),
    }
}

#[test]
fn the_window_grows_by_one_per_window_of_successes_while_there_is_a_backlog() {
    let (mut pace, now) = open(8, 1);
    for round in 1..=20 {
        let tickets = start_all(&mut pace, now);
        assert_eq!(tickets.len(), round.min(8));
        assert_eq!(pace.may_start(now), May::AfterAnswer);
        tickets.into_iter().for_each(|ticket| pace.success(now, ticket, true));
    }
    let (mut pace, now) = open(8, 3);
    for _ in 0..20 {
        start_all(&mut pace, now).into_iter().for_each(|ticket| pace.success(now, ticket, false));
    }
    assert_eq!(pace.window(), 3, "nobody needs more");
}

#[test]
fn eight_refusals_at_once_are_one_failure_and_halve_once() {
    let (mut pace, now) = open(8, 8);
    for (number, ticket) in start_all(&mut pace, now).into_iter().enumerate() {
        pace.failed(now + millis(number as u64), ticket, None, 0.0);
    }
    assert_eq!((pace.failures(), pace.window()), (1, 4));
    assert_eq!(pace.paused_until(), Some(now + millis(30)), "the first one's, neither restarted nor doubled");
}

#[test]
fn what_a_target_asks_for_holds_for_all_with_little_on_top_and_a_longer_one_prolongs_it() {
    for (random, longer) in [(0.0, false), (0.999, false), (0.5, true)] {
        let (mut pace, now) = open(8, 8);
        let tickets = start_all(&mut pace, now);
        pace.throttled(now, tickets[0], Some(seconds(7.0)), random);
        pace.failed(now, tickets[1], Some(seconds(3.0)), 0.0);
        pace.failed(now, tickets[2], None, 0.0);
        let asked = if longer {
            pace.failed(now, tickets[3], Some(seconds(20.0)), random);
            20.0
        } else {
            7.0
        };
        let then = wait(&mut pace, now);
        assert!(now + seconds(asked) <= then && then <= now + seconds(asked * 1.1), "{:?}", then - now);
        assert_eq!(pace.failures(), 1);
    }
}

#[test]
fn after_trouble_one_goes_alone_and_only_its_success_opens_the_window_at_half() {
    let (mut pace, mut now) = open(16, 12);
    let tickets = start_all(&mut pace, now);
    pace.failed(now, tickets[0], None, 0.0);
    let mut pauses = Vec::new();
    for failures in 1..=10 {
        assert_eq!(pace.failures(), failures);
        let then = wait(&mut pace, now);
        pauses.push((then - now).as_millis());
        now = then;
        let probe = pace.start(now, SAMPLES, SAMPLES);
        // What was in flight may succeed meanwhile.
        if let Some(&old) = tickets.get(failures as usize) {
            pace.success(now, old, true);
        }
        assert_eq!(pace.may_start(now), May::AfterAnswer, "one alone");
        if failures < 10 {
            pace.failed(now, probe, None, 0.0);
        } else {
            pace.success(now, probe, true);
        }
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3840, 5000, 5000]);
    assert_eq!(pace.failures(), 0);
    // The trouble took longer than 10 s: doubling from 1. Then up to half by doubling.
    assert_eq!(pace.window(), 2);

    let (mut pace, now) = open(16, 12);
    let tickets = start_all(&mut pace, now);
    pace.failed(now, tickets[0], None, 0.0);
    let now = wait(&mut pace, now);
    let probe = pace.start(now, SAMPLES, SAMPLES);
    pace.success(now, probe, true);
    assert_eq!(pace.window(), 6);
    assert_eq!(pace.may_start(now), May::AfterAnswer, "11 are still out");
    pace.failed(now, tickets[1], None, 0.0);
    assert_eq!((pace.failures(), pace.window()), (0, 6), "it started before the trouble that is over");
}

#[test]
fn the_window_is_never_below_one_and_halves_for_each_new_trouble() {
    let (mut pace, mut now) = open(16, 16);
    let mut windows = Vec::new();
    for _ in 0..6 {
        now = wait(&mut pace, now);
        let ticket = pace.start(now, SAMPLES, SAMPLES);
        pace.failed(now, ticket, None, 0.5);
        now = wait(&mut pace, now);
        let probe = pace.start(now, SAMPLES, SAMPLES);
        pace.success(now, probe, false);
        windows.push(pace.window());
    }
    assert_eq!(windows, [8, 4, 2, 1, 1, 1]);
}

#[test]
fn refusals_of_data_end_trouble_and_do_not_open_the_window_further() {
    let (mut pace, now) = open(8, 4);
    let ticket = pace.start(now, SAMPLES, SAMPLES);
    pace.failed(now, ticket, None, 0.0);
    let now = wait(&mut pace, now);
    let ticket = pace.start(now, SAMPLES, SAMPLES);
    pace.refused(now, ticket);
    assert_eq!((pace.failures(), pace.window()), (0, 2));
    for _ in 0..10 {
        start_all(&mut pace, now).into_iter().for_each(|ticket| pace.refused(now, ticket));
    }
    assert_eq!((pace.window(), pace.in_flight()), (2, 0));
}

#[test]
fn a_held_target_waits_longer_and_a_change_of_trouble_counts_anew() {
    let (mut pace, mut now) = open(8, 1);
    for (held, pause) in [(true, 1000), (true, 2000), (true, 4000), (false, 30), (false, 60), (true, 1000)] {
        let ticket = pace.start(now, SAMPLES, SAMPLES);
        if held {
            pace.held(now, ticket, 0.0);
        } else {
            pace.failed(now, ticket, None, 0.0);
        }
        let then = wait(&mut pace, now);
        assert_eq!(then - now, millis(pause));
        now = then;
    }
}

#[test]
fn an_abandoned_probe_makes_room_for_another() {
    let (mut pace, now) = open(8, 4);
    let ticket = pace.start(now, SAMPLES, SAMPLES);
    pace.failed(now, ticket, None, 0.0);
    let now = wait(&mut pace, now);
    let probe = pace.start(now, SAMPLES, SAMPLES);
    assert_eq!(pace.may_start(now), May::AfterAnswer);
    pace.abandon(now, probe);
    assert_eq!(pace.may_start(now), May::Now);
    assert_eq!((pace.failures(), pace.in_flight()), (1, 0), "nothing was learned");
}

#[test]
fn an_operator_need_not_wait() {
    let (mut pace, now) = open(8, 4);
    let ticket = pace.start(now, SAMPLES, SAMPLES);
    pace.throttled(now, ticket, Some(seconds(300.0)), 0.5);
    assert!(wait(&mut pace, now) > now + seconds(299.0));
    pace.reset(now);
    let hangs = pace.start(now, SAMPLES, SAMPLES);
    assert_eq!(pace.may_start(now), May::AfterAnswer);
    pace.reset(now);
    let another = pace.start(now, SAMPLES, SAMPLES);
    pace.abandon(now, another);
    pace.failed(now, hangs, None, 0.0);
    assert_eq!(pace.failures(), 1);
}

fn case(rate: f64, latency: f64, kind: Counts, retry_after: Option<Duration>) -> Case {
    // Few requests tell little: a rate below one batch per second takes 60 of them.
    Case {
        rate: (rate, rate),
        batch: SAMPLES,
        latency,
        kind,
        retry_after,
        max_in_flight: 64,
        seed: 1,
        convergence: 60f64.max(60.0 / rate),
        measured: if rate > 50.0 { 300.0 } else { 600f64.max(120.0 / rate) },
    }
}

const LATENCIES: [f64; 3] = [0.001, 0.05, 0.5];
const RATES: [f64; 5] = [0.1, 0.5, 2.0, 10.0, 100.0];
const RETRY_AFTER: [Option<Duration>; 2] = [None, Some(Duration::from_secs(1))];
/// Most targets count per second, or hold a burst.
const SHORT: [Counts; 5] =
    [Counts::Bucket(0.2), Counts::Bucket(1.0), Counts::Bucket(10.0), Counts::Fixed(1.0), Counts::Sliding(1.0)];
const LONG: [Counts; 2] = [Counts::Fixed(10.0), Counts::Sliding(10.0)];

/// Runs them all and says which are worse. `cargo test .. -- --nocapture` prints the table.
fn settles(cases: impl Iterator<Item = Case>, delivered: f64, share: f64) {
    let mut worse = Vec::new();
    for case in cases {
        let (before, after) = run(case);
        let part = if case.rate.0 == case.rate.1 { before } else { after };
        let line = format!("{case}: delivered/R {:.3}, 429 share {:.4}", part.delivered, part.share);
        println!("{line}");
        if part.delivered < delivered || part.share > share {
            worse.push(line);
        }
    }
    assert!(worse.is_empty(), "wanted delivered/R >= {delivered}, share <= {share}:\n{}", worse.join("\n"));
}

fn grid(kinds: &[Counts]) -> impl Iterator<Item = Case> {
    kinds.iter().flat_map(|&kind| {
        RATES.into_iter().flat_map(move |rate| {
            LATENCIES.into_iter().flat_map(move |latency| {
                RETRY_AFTER.into_iter().map(move |retry_after| case(rate, latency, kind, retry_after))
            })
        })
    })
}

#[test]
fn a_target_that_answers_429_above_a_rate_gets_nearly_that_rate() {
    settles(grid(&SHORT), 0.9, 0.05);
}

#[test]
fn a_target_that_counts_per_ten_seconds_gets_nearly_its_rate() {
    settles(grid(&LONG).map(|case| Case { convergence: case.convergence.max(180.0), ..case }), 0.84, 0.06);
}

#[test]
fn other_random_numbers_and_batch_sizes_change_little() {
    let cases = (2..12).flat_map(|seed| {
        [500, 3_000, 20_000].into_iter().flat_map(move |batch| {
            [0.5, 2.0, 10.0].into_iter().map(move |rate| Case {
                seed: seed * 1000 + batch,
                batch,
                ..case(rate, 0.05, SHORT[seed as usize % SHORT.len()], RETRY_AFTER[batch as usize / 500 % 2])
            })
        })
    });
    settles(cases, 0.89, 0.05);
}

#[test]
fn a_rate_that_changes_by_a_factor_of_four_is_found_again() {
    let cases = grid(&SHORT).flat_map(|case| {
        [case.rate.0 * 4.0, case.rate.0 / 4.0].into_iter().filter(|rate| (0.1..=100.0).contains(rate)).map(
            move |rate| {
                let slower = case.rate.0.min(rate);
                Case { rate: (case.rate.0, rate), convergence: 90f64.max(60.0 / slower), measured: 600.0, ..case }
            },
        )
    });
    settles(cases, 0.9, 0.05);
}

/// A sender with an endless backlog against a target that takes everything after `latency`, for so long: when what was started.
fn drain(
    pace: &mut Pace,
    mut now: Instant,
    long: Duration,
    latency: Duration,
    sizes: &mut dyn FnMut() -> u64,
) -> Vec<(Instant, u64)> {
    let end = now + long;
    let mut flying = std::collections::VecDeque::new();
    let mut started = Vec::new();
    while now < end {
        while let Some(&(at, ticket)) = flying.front()
            && at <= now
        {
            flying.pop_front();
            pace.success(now, ticket, true);
        }
        now = match pace.may_start(now) {
            May::Now => {
                let size = sizes();
                flying.push_back((now + latency, pace.start(now, size, size * 10)));
                started.push((now, size));
                continue;
            }
            May::At(then) => flying.front().map_or(then, |&(at, _)| at.min(then)),
            May::AfterAnswer => flying[0].0,
        };
    }
    for (at, ticket) in flying {
        pace.success(at, ticket, true);
    }
    started
}

#[test]
fn a_limit_that_was_lifted_is_forgotten() {
    let (mut pace, now) = open(8, 4);
    drain(&mut pace, now, seconds(10.0), seconds(1.0), &mut || SAMPLES);
    let now = now + seconds(10.0);
    for ticket in start_all(&mut pace, now) {
        pace.throttled(now + millis(100), ticket, Some(seconds(1.0)), 0.0);
    }
    let learned = pace.learned_rate().unwrap();
    let started = drain(&mut pace, now + millis(100), seconds(300.0), millis(5), &mut || SAMPLES);
    assert_eq!(pace.learned_rate(), None, "was {learned}");
    let last = started.iter().rev().take_while(|start| start.0 > now + seconds(299.0)).count();
    assert!(last > 1000, "{last} requests in the last second, with a window of 8 and 5 ms");
}

#[test]
fn an_hour_of_429_is_not_taken_for_a_rate() {
    let (mut pace, mut now) = open(8, 4);
    drain(&mut pace, now, seconds(10.0), seconds(1.0), &mut || SAMPLES);
    now += seconds(10.0);
    let end = now + seconds(3600.0);
    while now < end {
        now = wait(&mut pace, now);
        let ticket = pace.start(now, SAMPLES, SAMPLES);
        pace.throttled(now, ticket, None, 0.5);
    }
    now = wait(&mut pace, now);
    let started = drain(&mut pace, now, seconds(30.0), millis(5), &mut || SAMPLES);
    assert!(started.len() > 1000, "{} requests in half a minute", started.len());
}

#[test]
fn idle_time_is_neither_saved_up_nor_taken_for_a_low_rate() {
    // One request a second is all there is; a 429 comes once in a while.
    let (mut pace, mut now) = open(8, 4);
    for _ in 0..60 {
        now += seconds(1.0);
        assert_eq!(pace.may_start(now), May::Now);
        let ticket = pace.start(now, SAMPLES, SAMPLES);
        pace.success(now + millis(10), ticket, false);
    }
    let ticket = pace.start(now + seconds(1.0), SAMPLES, SAMPLES);
    pace.throttled(now + seconds(1.01), ticket, None, 0.5);
    let learned = pace.learned_rate().unwrap() / SAMPLES as f64;
    assert!(learned > 20.0, "{learned} batches/s where 100 batches/s were taken");

    // After an hour of nothing, no more at once than fits the timer's grain.
    pace.rate = Rate::new(now);
    pace.rate.passed(now + seconds(5.0), 20 * SAMPLES);
    pace.rate.exceeded(now + seconds(10.0), now, SAMPLES);
    assert!(pace.learned_rate().unwrap() < 3.0 * SAMPLES as f64);
    pace.window = 4;
    pace.trouble = None;
    pace.paused_until = None;
    let now = now + seconds(3600.0);
    let at_once = start_all(&mut pace, now).len();
    assert_eq!(at_once, 1);
}

#[test]
fn configured_rates_are_never_exceeded_by_more_than_one_batch_over_ten_seconds() {
    for (samples, bytes, most) in
        [(Some(20_000.0), None, 20_000.0), (None, Some(20_000.0), 2_000.0), (Some(5_000.0), Some(100_000.0), 5_000.0)]
    {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let now = Instant::now();
            let configured = Limits { samples_per_second: samples, bytes_per_second: bytes, ..limits(8) };
            let mut pace = Pace::new(configured, now);
            let largest = [100, 5_000, 60_000][seed as usize % 3];
            let mut started = drain(&mut pace, now, seconds(120.0), millis(20), &mut || random.u64(1..largest));
            // And after a while of nothing.
            started.extend(drain(&mut pace, now + seconds(500.0), seconds(60.0), millis(20), &mut || {
                random.u64(1..largest)
            }));
            let (mut first, mut sum) = (0, 0);
            for &(at, size) in &started {
                sum += size;
                while at - started[first].0 > seconds(10.0) {
                    sum -= started[first].1;
                    first += 1;
                }
                assert!(sum as f64 <= 10.0 * most + largest as f64, "seed {seed}: {sum} in 10 s at {most}/s");
            }
            let used = started.iter().map(|start| start.1).sum::<u64>() as f64 / (180.0 * most);
            // A window that opens by and by may be what is slow.
            assert!(used > 0.9 || largest == 100, "seed {seed}: {used}");
        }
    }
}

#[test]
fn a_target_that_comes_back_is_met_slowly_and_at_twice_the_rate_each_round() {
    let (mut pace, mut now) = open(64, 64);
    let end = now + seconds(600.0);
    while now < end {
        now = wait(&mut pace, now);
        let ticket = pace.start(now, SAMPLES, SAMPLES);
        pace.failed(now, ticket, None, 0.5);
    }
    now = wait(&mut pace, now);
    let started = drain(&mut pace, now, seconds(10.0), millis(1), &mut || SAMPLES);
    let rounds: Vec<usize> =
        (0..8).map(|round| started.iter().filter(|start| (start.0 - now).as_millis() / 500 == round).count()).collect();
    assert!(rounds[0] <= 8, "{rounds:?}");
    for pair in rounds.windows(2) {
        assert!(pair[1] <= pair[0] * 5 / 2 + 1 && pair[1] > pair[0], "{rounds:?}");
    }
    assert!(started.len() > 10_000, "it is over at last: {}", started.len());
}

#[test]
fn fifty_relays_that_find_a_lost_target_do_not_strike_at_once() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let lost = Instant::now();
        let back = lost + seconds(600.0);
        let mut bins = [0; 60];
        for _ in 0..50 {
            let mut pace = Pace::new(limits(8), lost);
            // They lose it in the same instant.
            let mut now = lost;
            while now < back {
                let ticket = pace.start(now, SAMPLES, SAMPLES);
                pace.failed(now, ticket, None, random.f64());
                now = wait(&mut pace, now);
            }
            bins[(now - back).as_millis() as usize / 100] += 1;
        }
        let most = bins.iter().max().unwrap();
        assert!(*most <= 8, "seed {seed}: {most} of 50 within 100 ms: {bins:?}");
    }
}

proptest! {
    #[test]
    fn whatever_happens_limits_and_pauses_hold(
        max_in_flight in 1usize..10,
        steps in proptest::collection::vec((0u8..12, 0usize..10, 0u64..3_000, 0.0..1.0f64), 1..300),
    ) {
        let mut now = Instant::now();
        let mut pace = Pace::new(limits(max_in_flight), now);
        let mut flying: Vec<Ticket> = Vec::new();
        for (step, which, wait, random) in steps {
            now += millis(wait);
            let may = pace.may_start(now);
            if let May::At(then) = may {
                prop_assert!(then > now);
            }
            if may == May::AfterAnswer {
                prop_assert!(!flying.is_empty(), "waits for an answer that nobody will give");
            }
            if step < 5 {
                if may == May::Now {
                    prop_assert!(pace.paused_until().is_none_or(|until| until <= now));
                    flying.push(pace.start(now, wait, wait));
                }
            } else if !flying.is_empty() {
                let ticket = flying.swap_remove(which % flying.len());
                let before = (pace.paused_until(), pace.window());
                let retry_after = (wait % 2 == 0).then(|| millis(wait));
                match step {
                    5 => pace.success(now, ticket, wait % 3 > 0),
                    6 => pace.refused(now, ticket),
                    7 => pace.throttled(now, ticket, retry_after, random),
                    8 => pace.failed(now, ticket, retry_after, random),
                    9 => pace.held(now, ticket, random),
                    10 => pace.abandon(now, ticket),
                    _ => {
                        pace.success(now, ticket, true);
                        pace.reset(now);
                    }
                }
                if step < 11 {
                    prop_assert!(pace.paused_until() >= before.0, "a pause is not cut short");
                }
                if step == 5 && pace.failures() > 0 {
                    prop_assert!(pace.window() == before.1);
                }
            }
            prop_assert_eq!(pace.in_flight(), flying.len());
            prop_assert!(pace.in_flight() <= max_in_flight);
            prop_assert!((1..=max_in_flight).contains(&pace.window()));
        }
    }
}

/// Answers 429 and 503 at random.
fn sheds(throttles: f64, fails: f64, latency: f64, seed: u64) -> Random {
    let random =
        Random { throttles, fails, latency, samples: 2, limits: limits(8), seed, requests: u64::MAX, seconds: 60.0 };
    Random { limits: Limits { backoff: Backoff::try_new(millis(10), millis(100)).unwrap(), ..random.limits }, ..random }
}

#[test]
fn throttling_at_random_delays_hardly_more_than_failures_at_random() {
    let short = sheds(0.0, 0.0, 0.0, 0).limits;
    let mut worse = Vec::new();
    let (mut runs, mut slow_runs) = (0, 0);
    // On average over the seeds. With half a second a minute is few requests, and much of it goes by before the question is settled: 0.54 at worst.
    for (latency, least) in [(0.001, 0.8), (0.008, 0.8), (0.05, 0.8), (0.5, 0.5)] {
        for share in [0.02, 0.05, 0.2] {
            for limits in [limits(8), short] {
                let (mut throttled, mut failed) = (0, 0);
                for seed in 0..20 {
                    let case = Random { limits, ..sheds(share, 0.0, latency, seed) };
                    let with_429 = run_random(case).0;
                    let with_503 = run_random(Random { throttles: 0.0, fails: share, ..case }).0;
                    (throttled, failed) = (throttled + with_429, failed + with_503);
                    if latency < 0.5 {
                        runs += 1;
                        slow_runs += u32::from((with_429 as f64) < 0.6 * with_503 as f64);
                    }
                }
                let ratio = throttled as f64 / failed as f64;
                let line = format!("{share} refused, {latency} s: {ratio:.3} of what passes with 503");
                println!("{line}");
                if ratio < least {
                    worse.push(line);
                }
            }
        }
    }
    println!("{slow_runs} of {runs} runs below 0.6");
    assert!(worse.is_empty(), "{}", worse.join("\n"));
    assert!(slow_runs * 50 <= runs, "{slow_runs} of {runs} runs below 0.6");
}

#[test]
fn a_backlog_is_drained_though_one_in_ten_is_refused_at_random() {
    let mut took: Vec<f64> =
        (0..200).map(|seed| run_random(Random { requests: 600, ..sheds(0.05, 0.05, 0.008, seed) }).1).collect();
    took.sort_by(f64::total_cmp);
    println!("600 requests in {:.1} s, {:.1} s, at most {:.1} s", took[100], took[190], took[199]);
    assert!(took[195] < 8.0 && took[199] < 10.0, "{:.1} s, {:.1} s for 600 requests", took[195], took[199]);
}

#[test]
fn one_early_429_teaches_no_rate() {
    let (mut pace, now) = open(8, 4);
    let ticket = pace.start(now, SAMPLES, SAMPLES);
    pace.success(now + millis(900), ticket, true);
    let ticket = pace.start(now + millis(900), SAMPLES, SAMPLES);
    pace.throttled(now + millis(950), ticket, None, 0.5);
    assert_eq!(pace.learned_rate(), None, "one request in a second is no rate");
    assert_eq!(pace.failures(), 1, "but it waits");
}
