package ui

import "strings"

// Difference is a field as it is now, and as somebody typed it.
type Difference struct {
	Label, Now, Typed string
}

// Line is a line of two texts: in both, only in the one that is there now ('-'), or only in the
// one that was typed ('+').
type Line struct {
	In   byte // ' ', '-' or '+'
	Text string
}

// maxCells bounds the work of comparing two texts, in pairs of lines.
const maxCells = 4_000_000

// Lines gives both texts line by line, so that lines of both stand once.
func (d Difference) Lines() []Line {
	now, typed := lines(d.Now), lines(d.Typed)
	start := 0
	for start < min(len(now), len(typed)) && now[start] == typed[start] {
		start++
	}
	end := 0
	for end < min(len(now), len(typed))-start && now[len(now)-1-end] == typed[len(typed)-1-end] {
		end++
	}
	var out []Line
	out = appendLines(out, ' ', now[:start])
	out = append(out, compared(now[start:len(now)-end], typed[start:len(typed)-end])...)
	return appendLines(out, ' ', now[len(now)-end:])
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n") // browsers post CR LF
}

func appendLines(out []Line, in byte, texts []string) []Line {
	for _, text := range texts {
		out = append(out, Line{in, text})
	}
	return out
}

// compared finds a longest common subsequence of lines. Texts that are too long for it are shown
// one after the other.
func compared(now, typed []string) []Line {
	if len(now)*len(typed) > maxCells {
		return appendLines(appendLines(nil, '-', now), '+', typed)
	}
	common := make([][]int32, len(now)+1) // of the rests from there on
	for i := range common {
		common[i] = make([]int32, len(typed)+1)
	}
	for i := len(now) - 1; i >= 0; i-- {
		for j := len(typed) - 1; j >= 0; j-- {
			if now[i] == typed[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []Line
	i, j := 0, 0
	for i < len(now) && j < len(typed) {
		switch {
		case now[i] == typed[j]:
			out = append(out, Line{' ', now[i]})
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			out = append(out, Line{'-', now[i]})
			i++
		default:
			out = append(out, Line{'+', typed[j]})
			j++
		}
	}
	return appendLines(appendLines(out, '-', now[i:]), '+', typed[j:])
}
