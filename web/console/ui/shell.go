package ui

// Shell is what is around a page.
type Shell struct {
	Title string
	// Crumbs lead to the page from the one above; the page itself is not in it.
	Crumbs []Link
	Nav    []NavGroup
	// User and Role are who is signed in.
	User, Role string
	// State is the appliance's, a badge with the reason; StateURL tells more.
	State  Badge
	Reason string
	// Flash says what was just done.
	Flash string
	// Theme is "", "light" or "dark".
	Theme string
	// ShortcutsOff has keys that act alone do nothing (WCAG 2.2, 2.1.4).
	ShortcutsOff bool
	// Version is the release. Node is the node of a fleet that the page is of; empty without
	// one.
	Version, Node string
	// Idle is in how many seconds the session ends if nobody uses it.
	Idle int
	// Here is the URL of the page, to come back to.
	Here string
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
