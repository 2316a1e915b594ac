//! Reading of tables by the names of their columns, and of words in plain text. A mistake is told with file, line and column.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read the trace {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A place in it is wrong.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// The field of the line, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// It is readable, and makes no sense.
    #[error("{}: {problem}", path.display())]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl TraceError {
    /// A place that is wrong.
    pub fn broken(path: &Path, line: u64, column: usize, problem: impl Into<String>) -> Self {
        Self::Broken { path: path.to_owned(), line, column, problem: problem.into() }
    }

    /// A file that makes no sense.
    pub fn senseless(path: &Path, problem: impl Into<String>) -> Self {
        Self::Senseless { path: path.to_owned(), problem: problem.into() }
    }
}

/// Opens a file, unpacked: gzip and xz are known by their first bytes.
pub fn open(path: &Path) -> Result<Box<dyn Read>, TraceError> {
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let start = file.fill_buf().map_err(failed)?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Box::new(lzma_rust2::XzReader::new(file, true))
    } else {
        Box::new(file)
    })
}

/// The whole text of a file.
pub fn text(path: &Path) -> Result<String, TraceError> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

/// A row of a table.
#[derive(Debug)]
pub struct Row<'a> {
    path: &'a Path,
    line: u64,
    names: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    /// The text in a column, or `None` if the table has no such column.
    pub fn text(&self, name: &str) -> Option<&str> {
        let column = self.names.iter().position(|n| n == name)?;
        Some(self.record.get(column).unwrap_or_default().trim())
    }

    /// The value in a column that must be there.
    pub fn get<T: FromStr>(&self, name: &str, wanted: &str) -> Result<T, TraceError> {
        let Some(column) = self.names.iter().position(|n| n == name) else {
            return Err(TraceError::broken(self.path, 1, 1, format!("the table has no column {name}")));
        };
        let text = self.record.get(column).unwrap_or_default().trim();
        text.parse().map_err(|_| self.wrong(name, &format!("{text:?} is not {wanted}")))
    }

    /// Like `get`, with a value for an empty field or a missing column.
    pub fn get_or<T: FromStr>(&self, name: &str, wanted: &str, empty: T) -> Result<T, TraceError> {
        if self.text(name).unwrap_or_default().is_empty() { Ok(empty) } else { self.get(name, wanted) }
    }

    /// The values of all columns from this one on.
    pub fn numbers_from<T: FromStr>(&self, first: &str, wanted: &str) -> Result<Vec<T>, TraceError> {
        let Some(start) = self.names.iter().position(|n| n == first) else {
            return Err(TraceError::broken(self.path, 1, 1, format!("the table has no column {first}")));
        };
        let fields = self.record.iter().enumerate().skip(start);
        fields
            .map(|(column, text)| {
                let name = self.names.get(column).unwrap_or_default();
                text.trim().parse().map_err(|_| self.wrong(name, &format!("{:?} is not {wanted}", text.trim())))
            })
            .collect()
    }

    /// A value that is wrong in a column.
    pub fn wrong(&self, name: &str, problem: &str) -> TraceError {
        let column = self.names.iter().position(|n| n == name).unwrap_or_default();
        TraceError::broken(self.path, self.line, column + 1, format!("{name}: {problem}"))
    }
}

/// Reads all rows of a CSV file with a header.
pub fn rows<T>(path: &Path, mut row: impl FnMut(&Row<'_>) -> Result<T, TraceError>) -> Result<Vec<T>, TraceError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open(path)?);
    let failed = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        match error.into_kind() {
            csv::ErrorKind::Io(source) => TraceError::Read { path: path.to_owned(), source },
            csv::ErrorKind::Utf8 { err, .. } => TraceError::broken(path, line, err.field() + 1, "not UTF-8"),
            other => TraceError::broken(path, line, 1, format!("{other:?}")),
        }
    };
    let names = reader.headers().map_err(failed)?.clone();
    let mut all = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(failed)? {
        let line = record.position().map_or(1, csv::Position::line);
        if record.len() != names.len() {
            let column = record.len().min(names.len()) + 1;
            let problem = format!("the row has {} fields, and the header {}", record.len(), names.len());
            return Err(TraceError::broken(path, line, column, problem));
        }
        all.push(row(&Row { path, line, names: &names, record: &record })?);
    }
    if all.is_empty() {
        return Err(TraceError::senseless(path, "the table has no rows"));
    }
    Ok(all)
}

/// Numbers in plain text, one after the other.
#[derive(Debug)]
pub struct Words<'a> {
    path: &'a Path,
    words: Vec<(u64, usize, &'a str)>,
    at: usize,
}

impl<'a> Words<'a> {
    /// All words of a text.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        let lines = (1u64..).zip(text.lines());
        let words = lines.flat_map(|(line, text)| {
            (1..).zip(text.split_ascii_whitespace()).map(move |(column, word)| (line, column, word))
        });
        Self { path, words: words.collect(), at: 0 }
    }

    /// The next one.
    pub fn next<T: FromStr>(&mut self, what: &str) -> Result<T, TraceError> {
        let Some((line, column, word)) = self.words.get(self.at) else {
            let line = self.words.last().map_or(1, |w| w.0);
            return Err(TraceError::broken(self.path, line, 1, format!("the file ends where {what} should be")));
        };
        self.at += 1;
        word.parse().map_err(|_| TraceError::broken(self.path, *line, *column, format!("{word:?} is not {what}")))
    }

    /// Where the word is that was read last, for a value that makes no sense.
    pub fn wrong(&self, problem: impl Into<String>) -> TraceError {
        let (line, column, _) = self.words.get(self.at.saturating_sub(1)).copied().unwrap_or((1, 1, ""));
        TraceError::broken(self.path, line, column, problem)
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), TraceError> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some((line, column, word)) => {
                Err(TraceError::broken(self.path, *line, *column, format!("{word:?} is left over")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn numbers(text: &str) -> Result<Vec<u32>, String> {
        let file = file(text);
        let path = file.path().to_owned();
        rows(&path, |row| row.get("n", "a number"))
            .map_err(|e| e.to_string().replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn a_broken_row_names_file_line_and_column() {
        assert_eq!(numbers("a,n\nx,1\ny,2\n").unwrap(), [1, 2]);
        assert_eq!(numbers("a,n\nx,1\ny,two\n").unwrap_err(), "FILE:3:2: n: \"two\" is not a number");
        assert_eq!(numbers("a,n\nx,1\ny\n").unwrap_err(), "FILE:3:2: the row has 1 fields, and the header 2");
        assert_eq!(numbers("a,b\nx,1\n").unwrap_err(), "FILE:1:1: the table has no column n");
        assert_eq!(numbers("a,n\n").unwrap_err(), "FILE: the table has no rows");
        assert_eq!(numbers("a,n\nx,-1\n").unwrap_err(), "FILE:2:2: n: \"-1\" is not a number");
        assert_eq!(numbers("a,n\nx,99999999999\n").unwrap_err(), "FILE:2:2: n: \"99999999999\" is not a number");
        assert_eq!(numbers("a,n\nx,NaN\n").unwrap_err(), "FILE:2:2: n: \"NaN\" is not a number");
    }

    #[test]
    fn words_are_told_by_their_place() {
        let mut words = Words::new(Path::new("model.txt"), "1 2\n3 x\n");
        let read: Result<Vec<u8>, _> = (0..4).map(|_| words.next::<u8>("a count")).collect();
        assert_eq!(read.unwrap_err().to_string(), "model.txt:2:2: \"x\" is not a count");
        assert_eq!(
            words.next::<u8>("a count").unwrap_err().to_string(),
            "model.txt:2:1: the file ends where a count should be"
        );
    }

    #[test]
    fn packed_files_are_known_by_their_first_bytes() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"n\n7\n").unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&packed.finish().unwrap()).unwrap();
        assert_eq!(rows(file.path(), |row| row.get::<u32>("n", "a number")).unwrap(), [7]);
    }
}
