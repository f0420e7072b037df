//! Refusals: of one culprit, of the same ones again and again, of what is too old.

use super::*;

#[test]
fn one_culprit_in_two_thousand_entries_is_found_and_all_others_arrive() {
    let mut most = 0;
    every_seed_with(40, &mut most, |seed, most| {
        let mut random = fastrand::Rng::with_seed(seed);
        let log: Vec<Fake> = (0..50).map(|record| Fake::of(record * 40..record * 40 + 40)).collect();
        let mut setup = Setup { learned: learned(), rules: rules([1, 4][seed as usize % 2]), ..Setup::new(seed, log) };
        let culprit = (random.u64(1..=50), random.u32(0..40));
        setup.manners.cursed_entries = [culprit].into();
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.stored(), 1999);
        assert_eq!(world.refused_for(Reason::Status), 1);
        *most = (*most).max(world.requests);
    });
    println!("PRINT one culprit in 2000 entries of 50 records: {most} requests at most");
    assert!(most <= 60);
}

#[test]
fn a_backlog_that_is_rightly_too_old_is_refused_and_what_is_young_arrives() {
    let mut most = 0.0f64;
    every_seed_with(12, &mut (), |seed, ()| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (old, young) = (random.u64(1..400), random.u64(1..100));
        let log = (0..old + young).map(|n| Fake::of(n % 7..n % 7 + 10).aged(seconds(7200))).collect();
        let mut setup = Setup { learned: learned(), rules: rules(4), ..Setup::new(seed, log) };
        setup.manners.old_before = (old + 1, 0);
        if random.bool() {
            setup.rules.max_samples_per_send = random.u64(10..200);
        }
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.savepoint.ledger.refused, 10 * old, "seed {seed}");
        assert_eq!(world.savepoint.ledger.delivered, 10 * young, "seed {seed}");
        let per_record = world.requests as f64 / (old + young) as f64;
        if old > 100 {
            most = most.max(per_record);
        }
        if seed < 5 {
            println!(
                "PRINT old {old} young {young}: {} requests ({} empty), {:?}",
                world.requests,
                world.empty_requests,
                world.elapsed()
            );
        }
    });
    println!("PRINT too old: {most:.2} requests per record at most");
    assert!(most <= 12.0);
}

#[test]
fn of_a_record_that_is_too_old_in_part_the_young_part_arrives() {
    every_seed(60, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (records, entries) = (random.u64(2..120), random.u64(2..200));
        // Scrapes of all series, some to a record, hours old.
        let series = random.u64(entries.div_ceil(8)..=entries);
        let log = (0..records).map(|_| Fake::of((0..entries).map(|n| n % series)).aged(seconds(7200))).collect();
        let mut setup = Setup { learned: learned(), rules: rules(4), ..Setup::new(seed, log) };
        setup.rules.max_samples_per_send = random.u64(1..10 * entries);
        // (After a minute, here soon, records go one by one: that is no reason either.)
        setup.rules.suspect_after = seconds(random.u64(1..60));
        let (record, number) = (random.u64(1..=records), random.u64(0..entries) as u32);
        setup.manners.old_before = (record, number);
        let mut world = World::new(setup);
        world.run();
        let old = (record - 1) * entries + u64::from(number);
        assert_eq!(world.savepoint.ledger.refused, old, "seed {seed}: {record} of {records}, {number} of {entries}");
    });
}

/// Runs, and says how many requests were made in the second half of the time; everything but `refused` samples is delivered.
fn requests_in_the_second_half(fakes: Vec<Fake>, manners: Manners, refused: u64, name: &str) -> u64 {
    let records = fakes.len();
    let half = fakes.last().expect("there are some").at / 2;
    let setup = Setup { learned: learned(), manners, ..Setup::new(1, fakes) };
    let mut world = World::new(setup);
    world.run_for(half, 1_000_000);
    let first = world.requests;
    world.run();
    let second = world.requests - first;
    println!("PRINT {name}: {records} records, {first} and {second} requests, {} of them empty", world.empty_requests);
    assert_eq!(world.savepoint.ledger.refused, refused, "{name}");
    assert_eq!(world.savepoint.ledger.delivered + refused, world.log.total());
    second
}

#[test]
fn steady_culprits_cost_little_once_they_are_known() {
    // An hour of scrapes every 15 s.
    let scrapes = 240u64;
    let patient = Manners { latency: (5, 100), ..Manners::default() };
    let pair = |sender| move |n: u64| Fake::of(0..50).from(sender).at(seconds(15 * n) + ms(500 * u64::from(sender)));
    let both = (0..scrapes).flat_map(|n| [pair(1)(n), pair(2)(n)]).collect();
    let cursed = Manners { cursed_sender: Some(2), ..patient.clone() };
    let second = requests_in_the_second_half(both, cursed, 50 * scrapes, "a pair, the second one is refused");
    assert!(second <= scrapes + scrapes / 2, "{second}: at most 1.5 for each");
    let one = (0..scrapes).map(|n| Fake::of(0..50).at(seconds(15 * n))).collect();
    let cursed = Manners { cursed_series: [7].into(), ..patient };
    let second = requests_in_the_second_half(one, cursed, scrapes, "one series is always refused");
    assert!(second <= scrapes + 2, "{second}");
}

#[test]
fn halvings_along_records_are_not_limited() {
    // Merged, and one of two samples of each is bad: a halving for each record, and as many to get there.
    let records = 400u64;
    let mut setup =
        Setup { learned: learned(), ..Setup::new(1, (0..records).map(|n| Fake::of([2 * n, 2 * n + 1])).collect()) };
    setup.manners.cursed_entries = (1..=records).map(|position| (position, 1)).collect();
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.savepoint.ledger.refused, world.savepoint.ledger.delivered), (records, records));
}

#[test]
fn of_scrapes_with_many_bad_series_side_by_side_all_others_arrive_and_in_the_end_that_costs_little() {
    // An hour of scrapes.
    let scrapes = 240;
    for (first, bad, each) in [(0, 20, 3), (0, 100, 3), (77, 100, 3), (300, 200, 10)] {
        let fakes = (0..scrapes).map(|n| Fake::of(0..500).at(seconds(15 * n))).collect();
        let cursed_series = (first..first + bad).collect();
        let manners = Manners { cursed_series, latency: (5, 100), ..Manners::default() };
        let name = format!("{bad} series from {first} on are refused");
        let second = requests_in_the_second_half(fakes, manners, bad * scrapes, &name);
        assert!(second <= each * scrapes / 2, "{second}");
    }
}

#[test]
fn a_pair_of_which_now_the_one_and_now_the_other_comes_first_costs_little_also_in_a_backlog() {
    // Samples that are fresh: one request for each record, once it is known. Of a backlog two: each witness is heard.
    for (age, each) in [(0, 1), (7200, 2)] {
        every_seed(8, |seed| {
            let (scrapes, series) = (800u64, 100);
            let mut random = fastrand::Rng::with_seed(seed);
            let log = (0..scrapes).flat_map(|_| {
                let first = random.u8(1..3);
                [first, 3 - first].map(|sender| Fake::of(0..series).from(sender).aged(seconds(age)))
            });
            let mut setup = Setup { learned: learned(), ..Setup::new(seed, log.collect()) };
            setup.rules.max_samples_per_send = 20 * series;
            let second = (1..=scrapes).flat_map(|scrape| (0..series as u32).map(move |number| (2 * scrape, number)));
            setup.manners.cursed_entries = second.collect();
            let mut world = World::new(setup);
            while world.savepoint.settled.position.0 < scrapes {
                assert!(world.step());
            }
            let search = world.requests;
            world.run();
            let ledger = &world.savepoint.ledger;
            assert_eq!((ledger.refused, ledger.delivered), (scrapes * series, scrapes * series), "seed {seed}");
            let steady = world.requests - search;
            if search > each * scrapes + 1600 || steady > (each * scrapes) * 11 / 10 {
                world.fail(&format!("{search} requests for {scrapes} records, and {steady} for as many"));
            }
        });
    }
}

#[test]
fn of_a_pair_whose_first_one_dies_the_second_one_is_heard_within_a_minute_also_if_it_has_a_bad_series() {
    // A scrape of each every 15 s for two hours; then only the second one is left, and a series of it is refused in each scrape.
    let (both, alone, series) = (480u64, 240, 50);
    let scrape = |sender: u8, n: u64| Fake::of(0..series).from(sender).at(seconds(15 * n) + ms(u64::from(sender)));
    let log = (0..both).flat_map(|n| [scrape(1, n), scrape(2, n)]).chain((both..both + alone).map(|n| scrape(2, n)));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log.collect()) };
    setup.manners.latency = (5, 6);
    let second = (1..=both).flat_map(|n| (0..series as u32).map(move |number| (2 * n, number)));
    let bad = (1..=alone).map(|n| (2 * both + n, 7));
    setup.manners.cursed_entries = second.chain(bad).collect();
    let mut world = World::new(setup);
    world.run();
    let innocent = world.savepoint.ledger.refused - both * series - alone;
    assert!(innocent <= 5 * series, "{innocent}: of five scrapes at most");
}

#[test]
fn of_series_that_are_refused_in_every_second_scrape_nothing_is_sent_again_once_that_is_certain() {
    let scrapes = 480u64;
    let fakes = (0..scrapes).map(|n| Fake::of(0..200).at(seconds(15 * n))).collect();
    let cursed_entries = (1..=scrapes).step_by(2).flat_map(|n| (0..10).map(move |number| (n, number))).collect();
    let manners = Manners { cursed_entries, latency: (5, 100), ..Manners::default() };
    let second = requests_in_the_second_half(fakes, manners, 10 * scrapes / 2, "in every second scrape");
    // One request for a scrape, one more without these where it was refused; and one in twenty to look at them all the same.
    assert!(second <= scrapes / 2 + scrapes / 4 + 60, "{second}");
}

#[test]
fn a_duplicate_in_every_scrape_costs_the_others_nothing_however_long_it_lasts() {
    // The first of the two is taken each time, the second never; for half a day.
    let scrapes = 2880u64;
    let fakes = (0..scrapes).map(|n| Fake::of((0..8).chain([7])).at(seconds(15 * n))).collect();
    let cursed_entries = (1..=scrapes).map(|position| (position, 8)).collect();
    let manners = Manners { cursed_entries, latency: (5, 100), ..Manners::default() };
    let second = requests_in_the_second_half(fakes, manners, scrapes, "a duplicate series is refused");
    assert!(second <= 2 * scrapes + 8, "{second}: the others, both, the first, the second");
}

#[test]
fn what_is_booked_in_part_does_not_expire_as_if_it_were_not() {
    // Two records in a batch: the first is refused alone, and then the target is away until both are too old.
    let mut in_part = 0;
    every_seed_with(40, &mut in_part, |seed, in_part| {
        let mut setup = Setup { learned: learned(), ..Setup::new(seed, vec![Fake::of([1]), Fake::of([2])]) };
        setup.rules.sample_age_limit = Some(seconds(60));
        setup.manners.cursed_entries = [(1, 0)].into();
        setup.manners.latency = (100, 100);
        let from = ms(100 + 25 * seed);
        setup.manners.spells = vec![(from, seconds(120), Spell::Down)];
        let mut world = World::new(setup);
        world.run_for(seconds(59), 1000);
        *in_part += usize::from(world.delivery.batches.values().any(|active| !active.batch.is_untouched()));
        world.run();
        let ledger = &world.savepoint.ledger;
        assert_eq!(ledger.refused + ledger.delivered + ledger.expired, 2, "seed {seed}: {ledger:?}");
    });
    assert!(in_part >= 3, "{in_part} batches are booked in part when they are too old");
}

#[test]
fn after_a_lull_a_record_with_one_culprit_is_taken_apart() {
    // The last thing that the target said, long ago, was a refusal: that is not "everything was refused for so long".
    let log = vec![Fake::of([100]), Fake::of(0..20).at(seconds(400))];
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.cursed_entries = [(1, 0), (2, 7)].into();
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 2);
    assert_eq!(world.savepoint.ledger.delivered, 19);
}

#[test]
fn who_is_no_culprit_any_more_is_found_to_be_innocent() {
    // Every second scrape is refused for ten series, later for one of them only.
    let (scrapes, early) = (400u64, 40);
    let log = (0..scrapes).map(|n| Fake::of(0..200).at(seconds(15 * n))).collect();
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    let bad = |position: u64| 0..if position > early { 1 } else { 10 };
    setup.manners.cursed_entries =
        (1..=scrapes).step_by(2).flat_map(|position| bad(position).map(move |number| (position, number))).collect();
    let bad = setup.manners.cursed_entries.len() as u64;
    let mut world = World::new(setup);
    world.run();
    let innocent = world.savepoint.ledger.refused - bad;
    println!("PRINT {bad} are refused, and {innocent} innocent ones; {} requests for {scrapes}", world.requests);
    assert!(innocent <= 200, "{innocent}");
}

#[test]
fn what_may_have_arrived_and_has_many_bad_series_is_delivered_but_for_these() {
    let mut setup = Setup { learned: learned(), ..Setup::new(1, vec![Fake::of(0..500)]) };
    setup.manners.loses = 1000;
    setup.manners.well_from = Some(ms(110));
    setup.manners.cursed_series = (300..400).collect();
    let mut world = World::new(setup);
    world.run();
    assert_eq!((world.savepoint.ledger.delivered, world.refused_for(Reason::Resent)), (400, 100));
}

#[test]
fn how_many_were_merged_says_nothing_of_whether_a_search_is_worth_it() {
    // Three requests of which all is refused; then records are merged of which the first has two bad series, one of them its last.
    let mut log: Vec<Fake> = (0..3).map(|n| Fake::of(7000..7040).at(seconds(20 * n))).collect();
    log.push(Fake::of([9000]).from(2).at(seconds(80)));
    log.extend((0..64u64).map(|n| Fake::of(100 * n..100 * n + 100).at(seconds(100))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.cursed_series = (7000..7040).chain([50, 99]).collect();
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 3 * 40 + 2);
}

#[test]
fn bad_series_in_requests_of_their_own_say_nothing_of_other_requests_of_their_sender() {
    // A job of one bad series, or of a few, every 12 s; and one of 500 series each minute, one of which is bad.
    let minutes = 240u64;
    for few in [1u64, 8, 20] {
        let mut log = Vec::new();
        for minute in 0..minutes {
            log.extend((0..5).map(|n| Fake::of(1000..1000 + few).at(seconds(60 * minute + 12 * n))));
            log.push(Fake::of(100..600).at(seconds(60 * minute + 55)));
        }
        let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
        setup.manners.cursed_series = (1000..1000 + few).chain([101]).collect();
        let mut world = World::new(setup);
        world.run();
        assert_eq!(world.savepoint.ledger.refused, (5 * few + 1) * minutes, "{few}");
        assert!(world.requests < 6 * minutes * 2 + 1500, "{few}: {} requests", world.requests);
    }
}

#[test]
fn certain_culprits_cost_little_also_in_a_batch_of_which_all_is_refused() {
    let mut log: Vec<Fake> = (0..40u64).map(|n| Fake::of(0..20).at(seconds(15 * n))).collect();
    log.extend((0..4).map(|n| Fake::of(7000..7040).at(seconds(700 + 20 * n))));
    log.push(Fake::of([9000]).from(2).at(seconds(790)));
    log.extend((0..400u64).map(|_| Fake::of(0..20).at(seconds(800))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.cursed_series = (7000..7040).chain([3]).collect();
    setup.manners.cursed_entries = (46..=445).flat_map(|record| (0..20).map(move |n| (record, n))).collect();
    let mut world = World::new(setup);
    while world.elapsed() < seconds(795) {
        assert!(world.step());
    }
    let before = world.requests;
    world.run();
    assert!(world.requests - before < 2 * 400, "{} requests for 400", world.requests - before);
}

#[test]
fn what_may_have_arrived_is_searched_also_where_nothing_was_taken_for_long() {
    let mut log: Vec<Fake> = (0..100u64).map(|n| Fake::of(0..100).at(seconds(n))).collect();
    log.push(Fake::of(0..100).at(seconds(120)));
    log.push(Fake::of(0..100).at(seconds(200)));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.manners.old_before = (101, 0);
    setup.manners.cursed_entries = [(101, 50)].into();
    setup.manners.spells = vec![(seconds(115), seconds(125), Spell::Mute)];
    let mut world = World::new(setup);
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 100 * 100 + 1);
}

#[test]
fn what_is_known_of_senders_of_old_data_is_forgotten_when_their_lane_gets_the_new() {
    let old = 20u64;
    let mut log: Vec<Fake> = (0..old).map(|n| Fake::of(0..100).aged(seconds(7200)).at(seconds(n))).collect();
    log.extend((0..200u64).map(|n| Fake::of(0..100).at(seconds(100 + 15 * n))));
    let mut setup = Setup { learned: learned(), ..Setup::new(1, log) };
    setup.rules.suspect_after = seconds(600);
    setup.manners.old_before = (old + 1, 0);
    setup.manners.cursed_series = [7].into();
    let mut world = World::new(setup);
    while world.elapsed() < seconds(60) {
        assert!(world.step());
    }
    assert!(!world.delivery.senders.is_empty());
    world.delivery.backlog_is(Lane::Two);
    assert!(world.delivery.senders.is_empty());
    world.run();
    assert_eq!(world.savepoint.ledger.refused, 100 * old + 200);
}
