package ui

// Pages leads to other pages of a list; an empty URL leads nowhere.
type Pages struct {
	First, Previous, Next string
	// Text says which entries are shown, of how many.
	Text string
}

// Head is the head of a column by which a list can be sorted.
type Head struct {
	Text, URL string
	// Sorted is "ascending" or "descending" if the list is sorted by it.
	Sorted string
}
