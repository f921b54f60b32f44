package ui

// Shell is what is around a page.
type Shell struct {
	Title string
	// Crumbs lead to the page from the one above; the page itself is not in it.
	Crumbs []Link
	Nav    []NavGroup
	// User and Role are who is signed in.
	User, Role string
	// Standing is the appliance's.
	Standing Standing
	// Posted says that the page answers a post, which to load it again would repeat.
	Posted bool
	// Flash says what was just done.
	Flash string
	// Theme is "", "light" or "dark".
	Theme string
	// ShortcutsOff has keys that act alone do nothing (WCAG 2.2, 2.1.4).
	ShortcutsOff bool
	// Version is the release. Node is the node of a fleet that the page is of; empty without
	// one.
	Version, Node string
	// Here is the URL of the page, to come back to.
	Here string
}

// Standing is whether the appliance serves, as the header says it.
type Standing struct {
	Badge Badge
	Says  string
	// Digest names what the page shows: with another one the page has changed. URL is where an
	// open page asks for the header as it is now.
	Digest, URL string
	// Node is the ID of the node that says it; empty for an appliance on its own.
	Node string
	// Seconds is in how many the session ends if nobody uses it.
	Seconds int
}

// Link is a text with where it leads.
type Link struct{ Text, URL string }

// NavGroup is a part of the navigation.
type NavGroup struct {
	Title   string
	Entries []NavEntry
}

// NavEntry is one page of the navigation. With the letter g and then Key, the
// keyboard leads to it.
type NavEntry struct {
	Text, URL, Icon, Key string
	Current              bool
	// Count, if not 0, is what waits there.
	Count int
}
