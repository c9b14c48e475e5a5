//! The prefixes that a text begins with, found without trying each.

/// Prefixes in order, each with its numbers and the longest other one that it begins with.
#[derive(Clone, Debug, Default)]
pub struct Prefixes(Vec<Prefix>);

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<str>,
    numbers: Vec<u32>,
    parent: Option<usize>,
}

impl Prefixes {
    /// Prefixes with a number each.
    pub fn new(mut written: Vec<(Box<str>, u32)>) -> Self {
        written.sort();
        let mut all: Vec<Prefix> = Vec::new();
        for (text, number) in written {
            if let Some(last) = all.last_mut()
                && last.text == text
            {
                last.numbers.push(number);
                continue;
            }
            let mut parent = all.len().checked_sub(1);
            while let Some(entry) = parent.and_then(|index| all.get(index)) {
                if text.starts_with(&*entry.text) {
                    break;
                }
                parent = entry.parent;
            }
            all.push(Prefix { text, numbers: vec![number], parent });
        }
        Self(all)
    }

    /// Gives the numbers of every prefix of a text, in order for each prefix. The longest one is the last
    /// entry not after the text, or an ancestor of that entry.
    pub fn each(&self, text: &str, mut give: impl FnMut(&[u32])) {
        let mut place = self.0.partition_point(|entry| &*entry.text <= text).checked_sub(1);
        while let Some(entry) = place.and_then(|index| self.0.get(index)) {
            if text.starts_with(&*entry.text) {
                give(&entry.numbers);
            }
            place = entry.parent;
        }
    }
}
