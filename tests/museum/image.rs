//! A log's directory as bytes in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE: usize = 4096;

/// Files by their paths within the directory.
#[derive(Clone, Debug, Default)]
pub struct Image(BTreeMap<String, Vec<u8>>);

/// The name of a segment's file.
pub fn segment_name(id: u64) -> String {
    format!("seg-{id:020}.wal")
}

impl Image {
    /// Segments and savepoints of a directory that nobody uses.
    pub fn read(dir: &Path) -> Image {
        let mut image = Image::default();
        for under in ["", "savepoints/"] {
            for entry in fs::read_dir(dir.join(under)).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{under}{}", entry.file_name().to_str().unwrap());
                let is_kept = name.ends_with(".wal") || name.starts_with("savepoints/");
                if is_kept && entry.path().is_file() {
                    image.0.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
        image
    }

    /// Writes all of it into a directory; pages of zeroes become holes.
    pub fn write(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_sparse(&path, bytes);
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name]
    }

    /// The bytes of a file, to be changed.
    pub fn edit(&mut self, name: &str) -> &mut Vec<u8> {
        self.0.get_mut(name).unwrap()
    }

    pub fn segment(&self, id: u64) -> &[u8] {
        self.bytes(&segment_name(id))
    }

    pub fn edit_segment(&mut self, id: u64) -> &mut Vec<u8> {
        self.edit(&segment_name(id))
    }

    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.into(), bytes);
    }

    pub fn take(&mut self, name: &str) -> Vec<u8> {
        self.0.remove(name).unwrap()
    }

    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_kept(name));
    }
}

/// Writes a file with holes where there are only zeroes.
pub fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let is_empty = |page: &[u8]| page == &[0; PAGE][..page.len()];
    let mut start = 0;
    while start < bytes.len() {
        let pages = bytes[start..].chunks(PAGE).take_while(|page| !is_empty(page)).map(<[u8]>::len).sum::<usize>();
        file.write_all_at(&bytes[start..start + pages], start as u64).unwrap();
        start += pages + PAGE;
    }
}
