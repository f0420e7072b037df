//! The last record is not whole: the file ends within it, or is zeroes from there on. It comes whole or not at all, and nobody misses it.
//! And files that are shorter or longer than they were.

use crate::base::{Base, SEGMENTS};
use crate::expected::Expected;
use crate::image::{Image, segment_name};
use crate::opened::{cheap_dir, read};
use crate::visit::{Prelude, visit};

/// What is done behind the place where the record is cut.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Gone,
    Zeroes,
}

fn cut(base: &Base, rest: Rest, at: usize) -> Image {
    let mut image = base.image.clone();
    let bytes = image.edit_segment(base.records.last().unwrap().segment);
    match rest {
        Rest::Gone => bytes.truncate(at),
        Rest::Zeroes => bytes[at..].fill(0),
    }
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_record_cut_at_every_byte_is_there_or_not_and_nobody_misses_it() {
    let base = Base::killed().await;
    let last = base.records.last().unwrap();
    let (from, segment) = (base.before(last.segment), segment_name(last.segment));
    let dir = cheap_dir();
    let mut images = 0;
    for rest in [Rest::Zeroes, Rest::Gone] {
        for at in last.offset..=last.offset + last.len {
            let what = format!("{rest:?} from {at} on");
            let mut image = cut(&base, rest, at);
            let mut expected = Expected::of(&base, &image);
            expected.positions.retain(|position| *position > from.0.position.0);
            if matches!(rest, Rest::Zeroes) {
                // Its last bytes may have been zeroes.
                let all_before: Vec<u64> = (from.0.position.0 + 1..last.position).collect();
                assert!(expected.positions.starts_with(&all_before), "{what}");
            }
            image.retain(|name| name == segment || name == segment_name(last.segment - 1));
            let log = dir.path().join("log");
            image.write(&log);
            let seen = read(&base, &log, from, u64::MAX);
            assert_eq!((seen.positions, seen.lost), (expected.positions, 0), "{what}");
            assert_eq!(seen.findings.count, 0, "{what}");
            std::fs::remove_dir_all(&log).unwrap();
            images += 1;
        }
    }
    println!("{images} torn tails");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_on_a_torn_tail_and_goes_on_behind_it() {
    let base = Base::killed().await;
    let last = base.records.last().unwrap();
    for rest in [Rest::Zeroes, Rest::Gone] {
        for at in [0, 1, 128, last.len / 2, last.len - 1].map(|offset| last.offset + offset) {
            for prelude in [Prelude::Nothing, Prelude::TwoCrashes] {
                let what = format!("{rest:?} from {at} on, {prelude:?}");
                let image = cut(&base, rest, at);
                let seen = visit(&image, |_| {}, prelude, &[]).await;
                seen.assert(&Expected::of(&base, &image), &what);
                seen.assert_damage(&[], 0, &what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_segment_that_was_cut_gives_what_is_left_and_the_rest_is_counted() {
    let base = Base::stopped().await;
    let third = base.of_segment(2).nth(2).unwrap();
    let end = usize::try_from(base.of_segment(2).last().unwrap().next.offset).unwrap();
    for len in [1, 4096, 8192, 8192 + 192, third.offset, third.offset + third.len / 2, end - 1, end, end + 192] {
        let mut image = base.image.clone();
        image.edit_segment(2).truncate(len);
        let expected = Expected::of(&base, &image);
        for prelude in [Prelude::Nothing, Prelude::TwoCrashes] {
            visit(&image, |_| {}, prelude, &[]).await.assert(&expected, &format!("cut to {len} bytes, {prelude:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_has_grown_gives_everything() {
    for base in [Base::killed().await, Base::stopped().await] {
        for segment in [2, SEGMENTS] {
            for fill in [0, 0xff] {
                let mut image = base.image.clone();
                image.edit_segment(segment).extend([fill; 10_000]);
                for prelude in [Prelude::Nothing, Prelude::TwoCrashes] {
                    let what = format!("{segment} has grown by bytes of {fill}, {prelude:?}");
                    let seen = visit(&image, |_| {}, prelude, &[]).await;
                    seen.assert(&Expected::without(&base, &[]), &what);
                }
            }
        }
    }
}
