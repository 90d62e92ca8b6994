//! Pages by number: those with an image, and those of which only the number is known, at a bit each.

use std::collections::BTreeMap;
use std::iter::Peekable;

/// A buffer with one page in it.
pub(crate) type Image = Box<[u8]>;

/// A set of pages, some with their image.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    images: BTreeMap<u32, Image>,
    forgotten: Bits,
    bytes: usize,
}

impl Pages {
    /// Puts a page in place of an older one, whose image comes back.
    pub(crate) fn put(&mut self, number: u32, image: Option<Image>) -> Option<Image> {
        let older = match image {
            Some(image) => {
                self.forgotten.clear(number);
                self.bytes += image.len();
                self.images.insert(number, image)
            }
            None => {
                self.forgotten.set(number);
                self.images.remove(&number)
            }
        };
        self.bytes -= older.as_ref().map_or(0, |image| image.len());
        older
    }

    pub(crate) fn image(&self, number: u32) -> Option<&[u8]> {
        self.images.get(&number).map(|image| &**image)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.images.len() + self.forgotten.count
    }

    pub(crate) fn all_have_images(&self) -> bool {
        self.forgotten.count == 0
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        Merged {
            images: self.images.iter().peekable(),
            forgotten: self.forgotten.iter().peekable(),
        }
    }

    /// Everything, in no particular order; nothing is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (u32, Option<Image>)> + use<> {
        let Pages { images, forgotten, .. } = std::mem::take(self);
        let numbers: Vec<u32> = match forgotten.count {
            0 => Vec::new(),
            _ => forgotten.iter().collect(),
        };
        let with = images.into_iter().map(|(number, image)| (number, Some(image)));
        with.chain(numbers.into_iter().map(|number| (number, None)))
    }

    /// Drops the pages beyond the end of the database, and gives their images back.
    pub(crate) fn cut(&mut self, pages_total: u32) -> BTreeMap<u32, Image> {
        self.forgotten.cut(pages_total);
        if self.images.last_key_value().is_none_or(|(number, _)| *number <= pages_total) {
            return BTreeMap::new();
        }
        let beyond = self.images.split_off(&pages_total.saturating_add(1));
        self.bytes -= beyond.values().map(|image| image.len()).sum::<usize>();
        beyond
    }
}

struct Merged<'a, A: Iterator<Item = (&'a u32, &'a Image)>, B: Iterator<Item = u32>> {
    images: Peekable<A>,
    forgotten: Peekable<B>,
}

impl<'a, A, B> Iterator for Merged<'a, A, B>
where
    A: Iterator<Item = (&'a u32, &'a Image)>,
    B: Iterator<Item = u32>,
{
    type Item = (u32, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let image_first = match (self.images.peek(), self.forgotten.peek()) {
            (Some((image, _)), Some(forgotten)) => *image < forgotten,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if image_first {
            self.images.next().map(|(number, image)| (*number, Some(&**image)))
        } else {
            self.forgotten.next().map(|number| (number, None))
        }
    }
}

/// Numbers at a bit each: a database of 10 GB has 328 KiB of them.
#[derive(Debug, Default)]
struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    fn place(number: u32) -> (usize, u64) {
        (number as usize / 64, 1 << (number % 64))
    }

    fn set(&mut self, number: u32) {
        let (word, bit) = Bits::place(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    fn clear(&mut self, number: u32) {
        let (word, bit) = Bits::place(number);
        if let Some(word) = self.words.get_mut(word) {
            self.count -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    fn cut(&mut self, last: u32) {
        if self.count == 0 {
            return;
        }
        let (word, bit) = Bits::place(last);
        self.words.truncate(word + 1);
        if let Some(end) = self.words.get_mut(word) {
            *end &= bit | (bit - 1);
        }
        self.count = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.words).flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    at * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_what_a_plain_map_would_hold() {
        let mut plain: BTreeMap<u32, Option<u8>> = BTreeMap::new();
        let mut pages = Pages::default();
        let mut random = 0x9e37_79b9_u32;
        for step in 0..20_000u32 {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let number = random % 500 + 1;
            if step.is_multiple_of(97) {
                pages.cut(number);
                plain.split_off(&(number + 1));
            } else {
                let fill = (random.is_multiple_of(3)).then_some(random as u8);
                pages.put(number, fill.map(|fill| vec![fill; 8].into()));
                plain.insert(number, fill);
            }
            assert_eq!(pages.count(), plain.len());
            let bytes = 8 * plain.values().flatten().count();
            assert_eq!(pages.bytes(), bytes);
        }
        let shown: Vec<_> = pages.iter().map(|(n, image)| (n, image.map(|i| i[0]))).collect();
        assert_eq!(shown, plain.clone().into_iter().collect::<Vec<_>>());
        let mut taken: Vec<_> = pages.take().map(|(n, image)| (n, image.map(|i| i[0]))).collect();
        taken.sort_unstable();
        assert_eq!(taken, shown);
        assert_eq!((pages.count(), pages.bytes()), (0, 0));
    }
}
