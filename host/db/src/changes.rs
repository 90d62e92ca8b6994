//! What was captured since the last shipment: the newest image of each page, never a log.

use crate::pages::{Image, Pages};

/// Buffers that are kept for the next images.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// Newest images of the pages that whole transactions changed.
///
/// Beyond `bytes_max` an image is forgotten and its page's number stays: the reader of a slow link
/// takes it from a snapshot later, instead of a queue that grows.
#[derive(Debug)]
pub struct Changes {
    pages: Pages,
    pages_total: u32,
    transactions: u64,
    frames: u64,
    bytes_max: usize,
    spare: Vec<Image>,
    spare_bytes: usize,
}

impl Changes {
    /// Nothing yet; at most so many bytes of images.
    #[must_use]
    pub fn new(bytes_max: usize) -> Changes {
        Changes {
            pages: Pages::default(),
            pages_total: 0,
            transactions: 0,
            frames: 0,
            bytes_max,
            spare: Vec::new(),
            spare_bytes: 0,
        }
    }

    /// Whether no transaction was captured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions == 0
    }

    /// The pages in ascending order; None for one whose image was forgotten.
    pub fn pages(&self) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        self.pages.iter()
    }

    /// How many pages changed.
    #[must_use]
    pub fn pages_changed(&self) -> usize {
        self.pages.count()
    }

    /// The newest image of a page, when it changed and was not forgotten.
    #[must_use]
    pub fn image(&self, page: u32) -> Option<&[u8]> {
        self.pages.image(page)
    }

    /// Pages of the database after the last transaction.
    #[must_use]
    pub fn pages_total(&self) -> u32 {
        self.pages_total
    }

    /// Transactions that were captured.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Frames that were captured, each image before the newest counted too.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes of the images held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.bytes()
    }

    /// Room for more images.
    pub(crate) fn room_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(self.pages.bytes())
    }

    /// Whether every changed page still has its image.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pages.all_have_images()
    }

    /// Shipped: empty again, with the buffers kept.
    pub fn clear(&mut self) {
        for (_, image) in self.pages.take() {
            self.recycle(image);
        }
        self.transactions = 0;
        self.frames = 0;
    }

    /// Gives the kept buffers back; for quiet times.
    pub fn trim(&mut self) {
        self.spare = Vec::new();
        self.spare_bytes = 0;
    }

    /// A copy of an image of a transaction that is not whole yet and holds so many bytes already;
    /// None when there is no more room for images.
    pub(crate) fn keep(&mut self, image: &[u8], open_bytes: usize) -> Option<Image> {
        if self.pages.bytes() + open_bytes + image.len() > self.bytes_max {
            return None;
        }
        while let Some(mut buffer) = self.spare.pop() {
            self.spare_bytes -= buffer.len();
            if buffer.len() == image.len() {
                buffer.copy_from_slice(image);
                return Some(buffer);
            }
        }
        Some(image.into())
    }

    /// Keeps the buffer of an image that nobody needs any more.
    pub(crate) fn recycle(&mut self, image: Option<Image>) {
        let Some(buffer) = image else { return };
        if self.spare_bytes + buffer.len() <= SPARE_BYTES_MAX {
            self.spare_bytes += buffer.len();
            self.spare.push(buffer);
        }
    }

    /// A transaction is whole: its images replace older ones, and what lies beyond the new end of
    /// the database is gone, whichever transaction wrote it.
    pub(crate) fn commit(
        &mut self,
        frames: u64,
        images: impl Iterator<Item = (u32, Option<Image>)>,
        pages_total: u32,
    ) {
        for (number, image) in images {
            let older = self.pages.put(number, image);
            self.recycle(older);
        }
        for (_, image) in self.pages.cut(pages_total) {
            self.recycle(Some(image));
        }
        self.pages_total = pages_total;
        self.transactions += 1;
        self.frames += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(changes: &mut Changes, pages: &[(u32, u8)], total: u32) {
        let mut images = Vec::new();
        let mut open_bytes = 0;
        for (number, fill) in pages {
            let image = changes.keep(&[*fill; 512], open_bytes);
            open_bytes += image.as_ref().map_or(0, |image| image.len());
            images.push((*number, image));
        }
        changes.commit(images.len() as u64, images.into_iter(), total);
    }

    fn shown(changes: &Changes) -> Vec<(u32, Option<u8>)> {
        changes.pages().map(|(number, image)| (number, image.map(|bytes| bytes[0]))).collect()
    }

    #[test]
    fn newest_images_only_and_none_beyond_the_end() {
        let mut changes = Changes::new(1 << 20);
        commit(&mut changes, &[(1, 1), (9, 1), (2, 1), (2, 2)], 9);
        assert_eq!(shown(&changes), [(1, Some(1)), (2, Some(2)), (9, Some(1))]);
        commit(&mut changes, &[(3, 3), (8, 3)], 3);
        assert_eq!(shown(&changes), [(1, Some(1)), (2, Some(2)), (3, Some(3))]);
        assert_eq!((changes.transactions(), changes.frames(), changes.bytes()), (2, 6, 3 * 512));
        commit(&mut changes, &[(7, 4)], 7);
        assert_eq!(changes.pages_total(), 7);
        changes.clear();
        assert!(changes.is_empty());
        assert_eq!((changes.bytes(), changes.pages_changed()), (0, 0));
    }

    #[test]
    fn beyond_the_limit_only_numbers_stay() {
        let mut changes = Changes::new(2 * 512);
        commit(&mut changes, &[(1, 1), (2, 2), (3, 3)], 3);
        assert_eq!(shown(&changes), [(1, Some(1)), (2, Some(2)), (3, None)]);
        assert!(!changes.is_complete());
        // A forgotten newer image must not leave the older one behind.
        commit(&mut changes, &[(1, 9)], 3);
        assert_eq!(shown(&changes), [(1, None), (2, Some(2)), (3, None)]);
        assert_eq!(changes.bytes(), 512);
        commit(&mut changes, &[(3, 8)], 3);
        assert_eq!(shown(&changes), [(1, None), (2, Some(2)), (3, Some(8))]);
    }
}
