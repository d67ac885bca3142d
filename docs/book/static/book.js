// Small helpers of the book's pages.
"use strict";
