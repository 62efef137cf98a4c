//! What people see: lines that stay, and lines that are drawn over each other.

use std::io::{self, IsTerminal, Write};

/// Standard output or standard error.
pub struct Screen {
    out: Box<dyn Write + Send>,
    terminal: bool,
    /// Lines at the end that the next [`Self::live`] draws over.
    live: usize,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Screen {
    /// Standard output.
    pub fn stdout() -> Self {
        let out = io::stdout();
        Self { terminal: out.is_terminal(), out: Box::new(out), live: 0 }
    }

    /// Standard error.
    pub fn stderr() -> Self {
        let out = io::stderr();
        Self { terminal: out.is_terminal(), out: Box::new(out), live: 0 }
    }

    /// Whether lines can be drawn over each other.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Text that stays. What was live before stays too.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.live = 0;
        self.out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }

    /// Lines that take the place of the last live lines; below them where that can't be done.
    pub fn live(&mut self, lines: &[String]) -> io::Result<()> {
        self.clear_live()?;
        for line in lines {
            writeln!(self.out, "{line}")?;
        }
        self.live = lines.len();
        self.out.flush()
    }

    /// Takes the live lines away, on a terminal.
    pub fn clear_live(&mut self) -> io::Result<()> {
        if self.terminal && self.live > 0 {
            write!(self.out, "\x1b[{}A\x1b[J", self.live)?;
        }
        self.live = 0;
        Ok(())
    }

    /// An empty screen with `text` on it; on what is no terminal, an empty line before it.
    pub fn page(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(if self.terminal { b"\x1b[H\x1b[2J" } else { b"\n" })?;
        self.text(text)
    }
}
