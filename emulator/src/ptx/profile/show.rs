//! A profile as text.

use std::fmt;

use super::{Kind, Profile, Site};
use crate::fault::Source;

/// The totals, then a line for each instruction that touches memory, in the order of the text.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issued: u64 = self.sites.iter().map(|site| site.counts.issued).sum();
        let Profile { read_bytes, written_bytes, .. } = self;
        write!(f, "{issued} instructions issued; {read_bytes} bytes of sectors read, {written_bytes} written")?;
        self.sites.iter().filter(|site| site.kind != Kind::None).try_for_each(|site| write!(f, "\n{site}"))
    }
}

/// Averages of a request.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Line(file, line) => write!(f, "{file}:{line} (PTX {})", self.line)?,
            _ => write!(f, "PTX {}", self.line)?,
        }
        let each = |sum: u64, of: u64| sum as f64 / of.max(1) as f64;
        let (issued, global, shared) = (self.counts.issued, self.counts.global, self.counts.shared);
        write!(f, ": {:?}, {issued} issued by {:.1} lanes", self.kind, each(self.counts.lanes, issued))?;
        if global.requests > 0 {
            let [bytes, sectors, ideal] =
                [global.bytes, global.sectors, global.ideal].map(|sum| each(sum, global.requests));
            write!(f, "; global: {bytes:.1} bytes in {sectors:.1} sectors, fewest {ideal:.1}")?;
        }
        if shared.requests > 0 {
            let [wavefronts, ideal] = [shared.wavefronts, shared.ideal].map(|sum| each(sum, shared.requests));
            write!(f, "; shared: {wavefronts:.1} wavefronts, fewest {ideal:.1}")?;
        }
        Ok(())
    }
}
