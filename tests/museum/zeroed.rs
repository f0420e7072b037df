//! Whole pages are gone: zeroes where something was.

use crate::base::{Base, SEGMENTS};
use crate::expected::Expected;
use crate::flipped::Shelf;
use crate::visit::{Prelude, visit};

const PAGE: usize = 4096;

fn zero(bytes: &mut [u8], page: usize) {
    bytes[page * PAGE..(page + 1) * PAGE].fill(0);
}

fn each_page(base: &Base, segment: u64) {
    let pages = base.image.segment(segment).len() / PAGE;
    tokio::task::block_in_place(|| {
        let mut shelf = Shelf::new(base, segment);
        for page in 0..pages {
            let what = format!("page {page} of segment {segment} zeroed");
            shelf.look(|bytes| zero(bytes, page), page % 16 == 0, true, &what);
        }
    });
    println!("{pages} images of segment {segment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_of_a_sealed_segment_costs_the_records_that_reach_into_it() {
    each_page(&*Base::stopped().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_of_the_newest_segment_costs_the_records_that_reach_into_it() {
    each_page(&*Base::stopped().await, SEGMENTS);
    each_page(&*Base::killed().await, SEGMENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_whichever_page_of_a_segment_is_gone() {
    for (base, name) in [(Base::killed().await, "killed"), (Base::stopped().await, "stopped")] {
        for segment in [1, SEGMENTS] {
            // The header; the first records; some in the middle; the header's copy with the seal.
            let pages = base.image.segment(segment).len() / PAGE;
            for page in [0, 1, 50, pages - 1] {
                let mut image = base.image.clone();
                zero(image.edit_segment(segment), page);
                for prelude in [Prelude::Nothing, Prelude::TwoCrashes] {
                    let what = format!("page {page} of segment {segment} zeroed, {name}, {prelude:?}");
                    visit(&image, |_| {}, prelude, &[]).await.assert(&Expected::of(&base, &image), &what);
                }
            }
        }
    }
}
